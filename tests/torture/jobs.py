"""Every command that writes, small, with what it reads; and what must be the same however it came about."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.nursery import Nursery

TINY = ("batch_tokens=300", "validation_rows=4", "validate_every=2", "log_every=1")
STAGES = {
    "pretrain": ("iterations=4", *TINY),
    "sft": ("iterations=4", *TINY),
    "memory-attention": ("iterations=4", "steps=2", *TINY),
    "smat": ("phases=[{steps: 1, iterations: 2}, {steps: 2, iterations: 2}]", *TINY),
}
STORES = {"pretrain": "texts", "smat": "conversations"}
"""What stages read that train on a token store."""
TRAIN = ("episodes=2", "checkpoint_every=1", "keep_checkpoints=2", "max_answer_tokens=4", "evaluation={every: 2, conversations: 2}")
CURRICULUM = "name: border\nstages: [{steps: 2, iterations: 2}, {steps: 3, iterations: 2, reset_ratio: 0.5}]\n"
_MRL = "{episodes: 2, max_iterations: 2, checkpoint_every: 1, max_answer_tokens: 4, evaluation: {every: 2, conversations: 2}}"
QUICKSTART = (
    "data={test_conversations: 3, steps: 3}",
    "stages.pretrain.iterations=2",
    "stages.sft.iterations=2",
    "stages.memory_attention.iterations=2",
    "stages.smat.phases=[{steps: 1, iterations: 2}, {steps: 2, iterations: 2}]",
    f"mrl={_MRL}",
    "interactive.data={test_conversations: 3, steps: 3}",
    "interactive.stages.smat.phases=[{steps: 2, iterations: 2}]",
    f"interactive.mrl={_MRL}",
)
WORKER_SECONDS = 12.0
"""CPU seconds that the second job of the quickstart takes in a process of its own, imports included."""
_STORY = "1 Mary moved to the kitchen.\n2 John went to the garden.\n3 Where is Mary? \tkitchen\t1\n4 Where is John? \tgarden\t2\n"
BABI = 12 * _STORY
TEXT_SHARDS, CHAT_SHARDS = 12, 3
LOCK = ".rxrl.lock"
TIMED = {"timings.jsonl", "report.html", "report.json"}
"""Files that hold times; that they are there is all that is compared."""
TIMES = {"timings.jsonl", "training_state.json", "cost", "seconds"}
"""Keys of JSON that hold times, the length of a file of times, or the hash of a file that holds such a length."""


def overrides(assignments: tuple[str, ...]) -> list[str]:
    return [part for assignment in assignments for part in ("--set", assignment)]


@dataclass(frozen=True)
class Job:
    """A command that writes below the folder that it runs in.

    Attributes:
        name: For the table.
        arguments: Of `rxrl`; `{base}` is the folder of what it reads.
        out: What it writes, relative to its folder.
        resumes: Whether `--resume` goes on with what a killed run has left; otherwise the same command is given again.
        copies: Paths in the base that are copied into its folder first, because it writes beside them.
        share: Of all kills.
        worker_seconds: CPU seconds, about, of the process that it starts to work beside it; 0: there is none.
    """

    name: str
    arguments: tuple[str, ...]
    out: str
    resumes: bool = False
    copies: Mapping[str, str] = field(default_factory=dict)
    share: int = 1
    worker_seconds: float = 0.0

    def prepare(self, base: Path, folder: Path) -> None:
        """Makes the folder that the job runs in."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for source, target in self.copies.items():
            copy = shutil.copytree if (base / source).is_dir() else shutil.copy2
            copy(base / source, folder / target)

    def command(self, base: Path, again: bool = False) -> list[str]:
        """Its arguments, the first time or after a fault."""
        return [each.replace("{base}", str(base)) for each in self.arguments] + ["--resume"] * (again and self.resumes)


def jobs() -> list[Job]:
    """All of them."""
    start = ("--from", "{base}/start")
    stages = [_stage(f"stage {name}", name, *(() if name == "pretrain" else start)) for name in STAGES]
    stages += [_stage(f"stage {name} (store)", name, *start, "--data", f"{{base}}/{held}-store") for name, held in STORES.items()]
    tokenized = [
        Job(f"data tokenize ({held})", ("data", "tokenize", f"{{base}}/{held}", "store", "--tokenizer", "{base}/start"), "store", share=10)
        for held in STORES.values()
    ]
    train = ("train", "--from", "{base}/start", "--curriculum", "{base}/curriculum.yaml", "--out", "run", *overrides(TRAIN))
    quickstart = ("quickstart", "--budget", "tiny", "--out", "run", *overrides(QUICKSTART))
    return [
        *stages,
        *tokenized,
        Job("train", train, "run", resumes=True, share=40),
        Job("quickstart", (*quickstart, "--one-after-another"), "run", resumes=True, share=15),
        Job("quickstart, side by side", (*quickstart, "--side-by-side"), "run", resumes=True, share=15, worker_seconds=WORKER_SECONDS),
        Job("evaluate", ("evaluate", "{base}/start", "--steps", "3", "--conversations", "3", "--out", "run"), "run", share=15),
        Job("rescore", ("rescore", "{base}/transcripts.jsonl", "--reward", "exact", "--out", "rescored.jsonl"), "rescored.jsonl", share=10),
        Job("report", ("report", "run"), "run", copies={"run": "run"}, share=15),
        Job("data generate", ("data", "generate", "rows.jsonl", "--count", "40"), "rows.jsonl", share=8),
        Job("data generate (Parquet)", ("data", "generate", "rows.parquet", "--count", "40"), "rows.parquet", share=4),
        Job("data import babi", ("data", "import", "babi", "{base}/qa1_train.txt", "rows.jsonl", "--holdout", "2"), "rows.jsonl", share=6),
        Job("data tokenizer", ("data", "tokenizer", "{base}/rows.jsonl", "--out", "run", "--vocab-size", "300"), "run", share=4),
        Job("export-rxlm", ("export-rxlm", "{base}/start", "out"), "out", share=4),
        Job("import-rxlm", ("import-rxlm", "{base}/published", "out"), "out", share=4),
    ]


def _stage(called: str, name: str, *more: str) -> Job:
    settings = ("--checkpoint-every", "1", *more, *overrides(STAGES[name]))
    return Job(called, ("stage", name, "--out", "run", *settings), "run", resumes=True, share=15)


def _write_texts(folder: Path) -> None:
    """Some shards of texts, each with a document that is longer than a section."""
    folder.mkdir()
    for shard in range(TEXT_SHARDS):
        told = [f"Text {shard}.{number}: " + _STORY * (300 if not number else 1 + number % 7) for number in range(480)]
        (folder / f"part-{shard:02}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in told))


def make_base(nursery: Nursery, base: Path) -> None:
    """Writes what the jobs read."""
    base.mkdir(parents=True, exist_ok=True)
    (base / "curriculum.yaml").write_text(CURRICULUM)
    (base / "qa1_train.txt").write_text(BABI)
    _write_texts(base / "texts")
    for arguments in (
        ("data", "generate", "rows.jsonl", "--count", "30", "--steps", "4"),
        *(("data", "generate", f"conversations/{each}.parquet", "--count", "400", "--seed", f"{each}") for each in range(CHAT_SHARDS)),
        ("stage", "smat", "--out", "stage", *overrides(STAGES["smat"])),
        ("evaluate", "stage/checkpoint", "--steps", "3", "--conversations", "3", "--out", "evaluation"),
        ("export-rxlm", "stage/checkpoint", "published"),
        *(("data", "tokenize", held, f"{held}-store", "--tokenizer", "stage/checkpoint") for held in STORES.values()),
        ("train", "--from", "stage/checkpoint", "--curriculum", "curriculum.yaml", "--out", "run", *overrides(TRAIN)),
    ):
        outcome = nursery.run(base, *arguments)
        assert outcome.code == 0, outcome
    shutil.copytree(base / "stage/checkpoint", base / "start")
    shutil.copy2(base / "evaluation/transcripts.jsonl", base / "transcripts.jsonl")


def fingerprint(path: Path) -> str:
    """The hash of a file, of a JSON object without its times; nothing for a file of times."""
    if path.name in TIMED:
        return ""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = _without_times(content)
    return hashlib.sha256(content).hexdigest()


def _without_times(content: bytes) -> bytes:
    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if key not in TIMES}

    return json.dumps(json.loads(content, object_pairs_hook=kept)).encode()


def contents(folder: Path) -> dict[str, str]:
    """What every file below a folder holds, by its path, and folders that are empty; a lock that nobody holds is nothing."""

    def found() -> Iterator[tuple[str, str]]:
        for place, folders, files in os.walk(folder):
            for name in files:
                if name != LOCK:
                    yield str(Path(place, name).relative_to(folder)), fingerprint(Path(place, name))
            if not folders and not files:
                yield str(Path(place).relative_to(folder)) + "/", ""

    return dict(sorted(found()))


def size_of(folder: Path) -> int:
    """Bytes that the files and folders below a folder take, in pages."""
    return sum(4096 + (path.stat().st_size + 4095) // 4096 * 4096 for path in folder.rglob("*"))


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run leaves.

    Attributes:
        job: The command.
        contents: As `contents` gives them.
        before: The same, before the command.
        size: Bytes that its folder takes at the end.
        operations: File operations of a run.
        opened: How often it opens a file to write.
        seconds: CPU seconds of a run.
    """

    job: Job
    contents: Mapping[str, str]
    before: Mapping[str, str]
    size: int
    operations: int
    opened: int
    seconds: float

    @classmethod
    def of(cls, nursery: Nursery, job: Job, base: Path, folder: Path, runs: int = 2) -> Whole:
        """Runs a job twice, and makes sure that it gives the same both times."""
        wholes = []
        for _ in range(runs):
            job.prepare(base, folder)
            before = contents(folder)
            outcome = nursery.run(folder, *job.command(base))
            assert outcome.code == 0, (job.name, outcome)
            wholes.append(cls(job, contents(folder), before, size_of(folder), outcome.operations, outcome.opened, outcome.seconds))
        differences = wholes[0].differences(folder)
        assert not differences, (job.name, differences)
        return wholes[-1]

    def differences(self, folder: Path) -> list[str]:
        """What is other than after an uninterrupted run: files that are missing, too many (litter), or of other bytes."""
        found = contents(folder)
        return [
            *(f"missing {name}" for name in sorted(self.contents.keys() - found.keys())),
            *(f"litter {name}" for name in sorted(found.keys() - self.contents.keys())),
            *(f"other bytes in {name}" for name in self.contents if name in found and found[name] != self.contents[name]),
        ]
