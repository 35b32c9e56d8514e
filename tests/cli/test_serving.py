"""The live view of a run: on this machine alone, one page, nothing written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from rxrl.cli.serving import live_server
from rxrl.errors import ConfigError
from rxrl.evaluation.live import live_page
from rxrl.evaluation.played_stages import played_stages

Ask = Callable[..., tuple[int, dict[str, str], str]]
ROWS = [
    {"phase": "smat", "iteration": 1, "loss": 2.0},
    *(
        {"phase": "mrl", "stage": f"steps-{2 + 2 * (i // 5)}", "steps": 2 + 2 * (i // 5), "iteration": i + 1, "reward": float(i)}
        for i in range(10)
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "my <run>"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"phase": "mrl", "cut')
    (run / "config.yaml").write_text("seed: 3\nmrl: {episodes: 8}\n")
    return run


@pytest.fixture
def ask(folder: Path) -> Iterator[Ask]:
    server = live_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def request(path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()

    request.port = server.server_port  # type: ignore[attr-defined]
    request.address = server.server_address[0]  # type: ignore[attr-defined]
    yield request
    server.shutdown()
    server.server_close()


def test_the_page_follows_the_run(ask: Any, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, headers, page = ask()
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "<h1>my &lt;run&gt;, mrl steps-4, iteration 10</h1>" in page
    assert '<meta http-equiv="refresh" content="10">' in page
    assert "held out, so far" in page
    assert "mrl.episodes" in page
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with (folder / "metrics.jsonl").open("w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in [*ROWS, {**ROWS[-1], "iteration": 11}]))
    assert "iteration 11</h1>" in ask()[2]


def test_it_listens_on_this_machine_alone_and_knows_one_page(ask: Any) -> None:
    assert ask.address == "127.0.0.1"
    assert ask("/../config.yaml")[0] == 404
    assert ask("/config.yaml")[0] == 404
    assert ask(method="POST")[0] == 501
    for name in ("elsewhere.example", f"elsewhere.example:{ask.port}", "127.0.0.1"):
        assert ask(Host=name)[0] == 403
    assert ask(Host=f"localhost:{ask.port}")[0] == 200


def test_a_broken_file_is_one_sentence(ask: Any, folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("{nonsense}\n")
    status, _, text = ask()
    assert status == 500
    assert "metrics.jsonl, line 1" in text
    assert "Traceback" not in text


def test_a_port_that_is_taken_is_refused(ask: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match="choose another one with --port"):
        live_server(folder, ask.port)


def test_stages_so_far_are_those_of_the_metrics() -> None:
    stages = played_stages(ROWS)
    assert [(each["steps"], each["iterations"], each["reward"]["mean"], each["ended"]) for each in stages] == [
        (2, 5, 4.0, None),
        (4, 5, 9.0, "under way"),
    ]
    assert played_stages([]) == []


def test_a_run_that_has_not_begun_has_a_page_and_a_finished_one_its_report(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    assert "no metrics yet</h1>" in live_page(folder, 5)
    (folder / "report.json").write_text('{"seed": 3, "notes": ["It is done."]}')
    page = live_page(folder, 5)
    assert "finished</h1>" in page
    assert "It is done." in page
