"""Every kind of file that rxrl reads: a right one, the function that reads it, and what its result must be."""

from __future__ import annotations

import dataclasses
import gzip
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Union, get_args, get_origin

from rxrl.config import BaseConfig, load_config
from rxrl.curricula import load_curriculum
from rxrl.data.importers import import_babi, import_chat, import_fairytaleqa, import_sgd
from rxrl.data.importers.text import import_text
from rxrl.data.rows import read_conversations, write_conversations
from rxrl.data.tokenizer import Tokenizer
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.evaluation.report import read_metrics, write_run_report
from rxrl.evaluation.saved import later_evaluation
from rxrl.manifest import MANIFEST_FILE, check_files
from rxrl.models import ReactiveTransformer
from rxrl.models.interop.rxlm import import_rxlm
from rxrl.pipeline import PipelineConfig
from rxrl.reading import parse_yaml
from rxrl.runs.checkpoints import CRITIC_FILE, STATE_FILE, TENSORS_FILE, load_critic, load_state
from rxrl.stages.config import SmatConfig
from rxrl.training.config import MRLConfig
from rxrl.training.critics import make_critic
from rxrl.types import Conversation
from tests.torture.jobs import BABI, CURRICULUM

PIPELINE = """\
seed: 1
preset: pico
data: {test_conversations: 8}
stages: {sft: {iterations: 3}, smat: {phases: [{steps: 1, iterations: 2}]}}
mrl: {episodes: 4, algorithm: {name: ppo}}
"""
CHATS = b"".join(
    b'{"messages": [{"role": "user", "content": "I have cat %d."}, {"role": "assistant", "content": "I see."}, '
    b'{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Cat %d."}]}\n' % (number, number)
    for number in range(6)
)
TALE = "section-stories/train/tale-story.csv"
QUESTIONS = "questions/train/tale-questions.csv"
FAIRYTALE = {
    TALE: b"section,text\n" + b"".join(b'%d,"Once there was cat %d. It slept on mat %d."\n' % (n, n, n) for n in range(1, 7)),
    QUESTIONS: b"question_id,cor_section,attribute1,question,ex-or-im1,answer1\n"
    + b"".join(b"%d,%d,setting,Where did cat %d sleep?,explicit,on mat %d\n" % (n, n, n, n) for n in range(1, 7)),
}

SGD = "train/dialogues_001.json"
SAID = (
    b'"speaker": "%s", "utterance": "%s", "frames": [{"service": "Cats_1", "actions": '
    b'[{"act": "%s", "slot": "cat", "values": ["cat %d"], "canonical_values": ["cat %d"]}]}]'
)
DIALOGUES = b"[%s]" % b",\n".join(
    b'{"dialogue_id": "1_%d", "services": ["Cats_1"], "turns": [{%s}, {%s}, {%s}, {%s}]}'
    % (
        number,
        SAID % (b"USER", b"I want cat %d." % number, b"INFORM", number, number),
        SAID % (b"SYSTEM", b"When?", b"REQUEST", number, number),
        SAID % (b"USER", b"Now.", b"AFFIRM", number, number),
        SAID % (b"SYSTEM", b"So you want cat %d." % number, b"CONFIRM", number, number),
    )
    for number in range(6)
)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: For the table.
        file: Where it lies, below the folder of its companions.
        companions: Other files of that folder, by their path below it.
        structure: See `mutate.mutated`.
        read: Reads the folder of the file; returns what it holds.
        wrong: What of a result has a wrong type, given the content of the file as well; None: nothing.
        noted: Whether a manifest is written anew for a changed file, so that it is not refused for its hash alone.
        share: Of all inputs.
    """

    name: str
    file: str
    companions: Mapping[str, bytes]
    structure: str | None
    read: Callable[[Path], Any]
    wrong: Callable[[bytes, Any], str | None] = lambda content, found: None
    noted: bool = False
    share: int = 1


def mistyped(value: Any, annotation: Any, place: str = "") -> str | None:
    """Where a value is not of the type that is declared for it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, object) or isinstance(annotation, typing.TypeVar):
        return None
    if origin in (Union, types.UnionType):
        fits = any(mistyped(value, each) is None for each in arguments)
    elif origin is Literal:
        fits = value in arguments
    elif annotation in (int, float):
        fits = isinstance(value, (int, annotation)) and not isinstance(value, bool)
    elif annotation in (None, type(None)):
        fits = value is None
    elif isinstance(value, origin or annotation):
        return _mistyped_inside(value, origin, arguments, place)
    else:
        fits = False
    return None if fits else f"{place} is {value!r:.60}"


def _mistyped_inside(value: Any, origin: Any, arguments: tuple[Any, ...], place: str) -> str | None:
    parts: list[tuple[Any, Any, str]] = []
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        parts = [(getattr(value, field.name), hints[field.name], f"{place}.{field.name}") for field in dataclasses.fields(value)]
    elif origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            return f"{place} has {len(value)} parts"
        parts = [(each, kind, f"{place}[{number}]") for number, (each, kind) in enumerate(zip(value, arguments, strict=True))]
    elif isinstance(value, Mapping) and arguments:
        parts = [pair for key, each in value.items() for pair in ((key, arguments[0], place), (each, arguments[1], f"{place}.{key}"))]
    elif isinstance(value, Sequence) and not isinstance(value, str) and arguments:
        parts = [(each, arguments[0], f"{place}[{number}]") for number, each in enumerate(value)]
    return next((found for part in parts if (found := mistyped(*part)) is not None), None)


def all_of(annotation: Any) -> Callable[[bytes, Any], str | None]:
    """Whether everything in a list is of a type."""
    return lambda content, found: mistyped(found, list[annotation])


def converted(given: Any, taken: Any, place: str = "") -> str | None:
    """Where a setting is not what the file says, but something made of it: 1 of true, 4 of "4"."""
    if isinstance(given, dict) and isinstance(taken, dict):
        pairs = [(given[key], taken[key], f"{place}.{key}") for key in given if key in taken]
    elif isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        pairs = [(one, other, f"{place}[{number}]") for number, (one, other) in enumerate(zip(given, taken, strict=True))]
    else:
        plain = (bool, int, float, str)
        kinds = [next((kind for kind in plain if isinstance(each, kind)), None) for each in (given, taken)]
        alike = kinds[0] is kinds[1] or kinds == [int, float] or None in kinds
        return None if alike else f"{place} is {given!r:.40} in the file and {taken!r:.40} afterwards"
    return next((found for pair in pairs if (found := converted(*pair)) is not None), None)


def as_written(content: bytes, found: BaseConfig) -> str | None:
    return converted(parse_yaml(content.decode("utf-8-sig"), "it").data, found.model_dump(mode="json"))


def files_of(folder: Path) -> dict[str, bytes]:
    """What the files of a folder hold, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def kinds(base: Path) -> list[Kind]:
    """All of them; right files come from what the commands of `jobs` have written in `base`."""
    rows = (base / "rows.jsonl").read_bytes()
    model, published, run, evaluation = (files_of(base / name) for name in ("start", "published", "run", "evaluation"))
    state = files_of(sorted((base / "run/checkpoints").glob("step-*"))[0])
    model.pop(MANIFEST_FILE)
    conversations, records, texts = all_of(Conversation), all_of(TurnRecord), all_of(str)
    few = b"\n".join(rows.splitlines()[:6])
    array = b"[" + b",\n".join(few.splitlines()) + b"]"
    critic = model | {CRITIC_FILE: state[CRITIC_FILE]}
    stories = b'{"text": "One day."}\n{"text": "Then."}\n'
    plain = b"One day a cat slept.\n\nThen it ate.\n"

    def one(name: str, content: bytes, structure: str | None, read: Callable[[Path], Any], *rest: Any, **more: Any) -> Kind:
        """A file without companions."""
        file = name.partition(", ")[2] or name
        return Kind(name, file, {file: content}, structure, lambda folder: read(folder / file), *rest, **more)

    def setting(name: str, text: str, config: type[BaseConfig], **more: Any) -> Kind:
        return one(name, text.encode(), "yaml", lambda path: load_config(path, config), as_written, **more)

    return [
        one("conversations, rows.jsonl", few, "jsonl", read_conversations, conversations, share=4),
        one("conversations, rows.json", array, "json", read_conversations, conversations, share=3),
        one("conversations, rows.parquet", _parquet(few), "parquet", read_conversations, conversations, share=3),
        one("conversations, rows.jsonl.gz", gzip.compress(few), "jsonl.gz", read_conversations, conversations),
        one("chats, chats.jsonl", CHATS, "jsonl", lambda path: import_chat(path).conversations, conversations),
        one("texts, texts.jsonl", stories, "jsonl", import_text, texts),
        one("texts, text.txt", plain, None, import_text, texts),
        one("bAbI, qa1_train.txt", BABI.encode(), None, lambda path: import_babi(path).conversations, conversations),
        Kind("FairytaleQA, sections", TALE, FAIRYTALE, "csv", lambda path: import_fairytaleqa(path).conversations, conversations),
        Kind("FairytaleQA, questions", QUESTIONS, FAIRYTALE, "csv", lambda path: import_fairytaleqa(path).conversations, conversations),
        Kind("Schema-Guided Dialogue", SGD, {SGD: DIALOGUES}, "json", lambda path: import_sgd(path).conversations, conversations),
        one("curriculum, c.yaml", CURRICULUM.encode(), "yaml", load_curriculum, as_written, share=2),
        setting("training, c.yaml", (base / "run/config.yaml").read_text(), MRLConfig, share=2),
        setting("memory-aware stage, c.yaml", (base / "stage/config.yaml").read_text(), SmatConfig),
        setting("quickstart, c.yaml", PIPELINE, PipelineConfig),
        Kind("model, config.json", "config.json", model, "json", ReactiveTransformer.from_pretrained, share=2),
        Kind("model, model.safetensors", "model.safetensors", model, "safetensors", ReactiveTransformer.from_pretrained, share=2),
        Kind("model, tokenizer.json", "tokenizer.json", model, "json", Tokenizer.load),
        Kind("checkpoint, manifest.json", MANIFEST_FILE, state, "json", lambda path: check_files(path, [STATE_FILE, TENSORS_FILE])),
        Kind("checkpoint, training_state.json", STATE_FILE, state, "json", load_state, noted=True),
        Kind("checkpoint, training_state.pt", TENSORS_FILE, state, "torch", load_state, noted=True),
        Kind("checkpoint, critic.safetensors", CRITIC_FILE, critic, "safetensors", _critic),
        one("transcripts.jsonl", (base / "transcripts.jsonl").read_bytes(), "jsonl", read_records, records, share=3),
        one("metrics.jsonl", run["metrics.jsonl"], "jsonl", read_metrics, all_of(dict)),
        Kind("report.json", "report.json", run, "json", write_run_report),
        Kind("evaluation.json", "evaluation.json", run | evaluation, "json", lambda path: write_run_report(path, later_evaluation(path))),
        Kind("published, config.json", "config.json", published, "json", import_rxlm, share=2),
        Kind("published, model.safetensors", "model.safetensors", published, "safetensors", import_rxlm),
    ]


def _critic(folder: Path) -> bool:
    model = ReactiveTransformer.from_pretrained(folder)
    return load_critic(folder, make_critic("text", model, 1))


def _parquet(rows: bytes) -> bytes:
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "rows.jsonl"), Path(folder, "rows.parquet")
        source.write_bytes(rows)
        write_conversations(target, read_conversations(source))
        return target.read_bytes()
