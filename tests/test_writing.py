"""Writing: whole or absent, on the disk, links and permissions kept, a failure in one sentence, nothing left lying about."""

import ast
import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rxrl.errors import WriteError
from rxrl.writing import append_line, cut, exact_numbers, json_text, replacing, replacing_folder, sweep, write_json, write_text

SOURCES = [Path("rxrl") / ".." / folder for folder in ("rxrl", "envs", "rewards", "curricula", "scripts", "examples")]
MEANS = {
    "write_text",
    "write_bytes",
    "mkstemp",
    "mkdtemp",
    "NamedTemporaryFile",
    "copyfile",
    "copy2",
    "copytree",
    "truncate",
    "sqlite3.connect",
}
WRITERS = {"save_file", "torch.save", "write_table", "to_parquet", "savez"}
"""What writes to a path of its own accord: only inside `with replacing(...)`."""


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("text", ["", "plain", "über, 水 and \N{GRINNING FACE}", "two\nlines\r\n"])
def test_a_text_is_written_as_utf8_with_its_line_ends(text, tmp_path):
    write_text(tmp_path / "new" / "folders" / "a.txt", text)
    assert (tmp_path / "new" / "folders" / "a.txt").read_bytes() == text.encode()
    assert files_of(tmp_path) == ["new", "new/folders", "new/folders/a.txt"]


def test_half_a_surrogate_pair_is_escaped_as_json_reads_it_back(tmp_path):
    write_json(tmp_path / "a.json", {"text": "\ud83d"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"text": "\ud83d"}


def test_json_has_no_numbers_that_are_not_finite():
    content = {"a": [math.nan, (math.inf, -math.inf)], "b": {1: 2.5}}
    assert json_text(content) == '{"a": [null, [null, null]], "b": {"1": 2.5}}'
    text = json_text(content, exact=True)
    json.loads(text, parse_constant=pytest.fail)
    exact = exact_numbers(json.loads(text))
    assert exact["a"][1] == [math.inf, -math.inf]
    assert math.isnan(exact["a"][0])


def test_a_new_file_has_the_permissions_that_the_user_gives_and_a_replaced_one_keeps_its_own(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "one")
        with replacing_folder(tmp_path / "f") as folder:
            (folder / "b").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o750
    (tmp_path / "a").chmod(0o660)
    (tmp_path / "f").chmod(0o2770)
    write_text(tmp_path / "a", "two")
    with replacing_folder(tmp_path / "f"):
        pass
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o660
    assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o2770
    assert files_of(tmp_path) == ["a", "f"]


def test_a_writer_that_makes_a_private_file_of_its_own_does_not_decide_over_the_permissions(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("old")
    (tmp_path / "there" / "f").mkdir()
    for name in ("a", "f"):
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
    write_text(tmp_path / "a", "new")
    with replacing_folder(tmp_path / "f") as folder:
        (folder / "b").touch()
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "f").is_symlink()
    assert (tmp_path / "there" / "a").read_text() == "new"
    assert files_of(tmp_path / "there") == ["a", "f", "f/b"]


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")]
)
def test_what_is_broken_off_leaves_the_old_and_nothing_else(stop, tmp_path):
    write_text(tmp_path / "a", "old")
    with replacing_folder(tmp_path / "f") as folder:
        (folder / "old").touch()
    expected = KeyboardInterrupt if stop is KeyboardInterrupt else WriteError

    def broken_off() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise stop

    def broken_off_folder() -> None:
        with replacing_folder(tmp_path / "f") as folder:
            (folder / "half").touch()
            raise stop

    with pytest.raises(expected) as first:
        broken_off()
    with pytest.raises(expected):
        broken_off_folder()
    assert (tmp_path / "a").read_text() == "old"
    assert files_of(tmp_path) == ["a", "f", "f/old"]
    if expected is WriteError:
        reason = getattr(stop, "strerror", None) or str(stop)
        assert str(first.value).startswith(f"{tmp_path / 'a'} could not be written ({reason}); what stood there is untouched: ")
        assert "\n" not in str(first.value)


def refusals(folder: Path):
    (folder / "file").touch()
    (folder / "folder").mkdir()
    yield folder / "file" / "below", "choose another path"
    yield folder / "folder", "give the name of a file"
    yield folder / ("n" * 300), "too long"
    yield Path("/proc/self/new/a"), "could not be written"


def test_every_refusal_of_the_system_is_one_sentence(tmp_path):
    for path, words in refusals(tmp_path):
        with pytest.raises(WriteError, match=words) as caught:
            write_text(path, "x")
        assert str(path) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == sorted(
        {"file", "folder", *os.listdir(tmp_path)} - {name for name in os.listdir(tmp_path) if name.startswith(".")}
    )


def test_a_file_that_is_read_only_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a").touch(0o444)
    if os.geteuid() == 0:  # Root may write everywhere; others get this answer.
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WriteError, match="that you may write to"):
        write_text(tmp_path / "a", "x")


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "pipe", "through")
    write_text(tmp_path / "null", "away")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()
    assert files_of(tmp_path) == ["null", "pipe"]


LIMITED = """
import resource, sys
from pathlib import Path
from rxrl.errors import WriteError
from rxrl.writing import append_line, write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda: write_bytes("a", b"x" * 5000), lambda: append_line("log", "y" * 600)):
    try:
        write()
    except WriteError as error:
        print(error)
"""


def test_a_disk_that_has_no_room_for_the_rest_of_a_file_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "a", "old")
    append_line(tmp_path / "log", "z" * 600)
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert [line.partition(" could not be written")[0] for line in ran.stdout.splitlines()] == ["a", "log"]
    assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "log").read_text() == "z" * 600 + "\n"
    assert files_of(tmp_path) == ["a", "log"]


def test_a_file_is_cut_and_never_filled(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    cut(tmp_path / "a", 9)
    assert (tmp_path / "a").read_bytes() == b"12345"
    cut(tmp_path / "a", 2)
    assert (tmp_path / "a").read_bytes() == b"12"


KILLED = """
import os, signal, sys
from rxrl.writing import replacing, replacing_folder
at, kind = int(sys.argv[1]), sys.argv[2]
seen = 0
def hook(event, arguments):
    global seen
    if event in ("os.rename", "os.mkdir", "open", "os.chmod", "os.rmdir", "shutil.rmtree", "os.remove", "os.link") and armed:
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
armed = False
sys.addaudithook(hook)
armed = True
if kind == "file":
    with replacing("a") as temporary:
        temporary.write_text("new")
else:
    with replacing_folder("f") as folder:
        (folder / "b").write_text("new")
armed = False
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_wherever_a_writer_is_killed_the_old_or_the_new_is_there_and_nothing_else(kind, tmp_path):
    name, inner = ("a", "a") if kind == "file" else ("f", "f/b")
    found = set()
    for at in range(1, 40):
        (tmp_path / inner).parent.mkdir(exist_ok=True)
        (tmp_path / inner).write_text("old")
        ran = subprocess.run(
            [sys.executable, "-c", KILLED, str(at), kind], cwd=tmp_path, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )
        sweep(tmp_path)
        assert files_of(tmp_path) == sorted({name, inner})
        found.add((tmp_path / inner).read_text())
        if ran.returncode != -signal.SIGKILL:
            break
    assert ran.returncode == 0, "the writer has more steps than this test kills"
    assert found == {"old", "new"}


def test_two_writers_of_one_file_come_one_after_the_other_and_a_sweep_leaves_them_alone(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("slow")
            inside.set()
            go_on.wait(10)

    first, second = threading.Thread(target=slow), threading.Thread(target=write_text, args=(tmp_path / "a", "second"))
    first.start()
    assert inside.wait(10)
    second.start()
    sweep(tmp_path)
    assert files_of(tmp_path) == [".a.new", ".a.new/a"]
    go_on.set()
    first.join()
    second.join()
    assert (tmp_path / "a").read_text() == "second"
    assert files_of(tmp_path) == ["a"]


def _calls(tree: ast.AST):
    """Every call with its name as it is written, and whether it stands inside `with replacing...`."""

    def visit(node: ast.AST, inside: bool):
        if isinstance(node, ast.With) and any("replacing" in ast.unparse(item.context_expr) for item in node.items):
            inside = True
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func), inside
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(tree, False)


def _opens_to_write(call: ast.Call, name: str) -> bool:
    if name.rpartition(".")[2] not in ("open", "fdopen") or "os.devnull" in ast.unparse(call):
        return False
    texts = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return name == "os.open" or any(text and set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)


def _renames(call: ast.Call, name: str) -> bool:
    last = name.rpartition(".")[2]
    return name in ("os.rename", "os.replace", "shutil.move") or (
        last in ("rename", "replace") and len(call.args) == 1 and not call.keywords
    )


def _reads_in_the_locale(call: ast.Call, name: str) -> bool:
    last, named = name.rpartition(".")[2], {each.arg for each in call.keywords}
    if "encoding" in named or name == "os.open" or last not in ("read_text", "open", "fdopen"):
        return False
    texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return (last == "read_text" and "." in name) or (name in ("open", "os.fdopen", "io.open") and not any("b" in text for text in texts))


@pytest.fixture(scope="module")
def calls():
    paths = [path for folder in SOURCES for path in sorted(folder.rglob("*.py")) if path.name not in ("writing.py", "locks.py")]
    return [
        (f"{path}:{call.lineno} {name}", call, name, inside)
        for path in paths
        for call, name, inside in _calls(ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_no_module_writes_a_file_but_through_the_one_mechanism(calls):
    found = []
    for where, call, name, inside in calls:
        last = name.rpartition(".")[2]
        own = ("." in name and last in MEANS) or _opens_to_write(call, name) or _renames(call, name)
        found += [where] * ((own or last in WRITERS or name in WRITERS) and not inside)
    assert found == []


def test_no_module_reads_a_file_in_the_encoding_of_the_locale(calls):
    assert [where for where, call, name, _ in calls if _reads_in_the_locale(call, name)] == []
