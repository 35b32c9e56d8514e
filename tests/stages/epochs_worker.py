"""What each process of `test_epochs.py` runs: `torchrun ... -m tests.stages.epochs_worker FOLDER`, with the stores in that folder."""

import json
import os
import sys
from pathlib import Path

from rxrl.data.stores import ConversationStore, TextStore
from rxrl.models import ReactiveTransformer
from rxrl.stages.config import LanguageConfig, SmatConfig, SmatPhase
from rxrl.stages.language_modelling import LanguageTask
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import SmatTask

LENGTH, SEED, SHARE, STEPS = 32, 3, 0.1, 2
COMMON = {"batch_tokens": 200, "validate_every": 1000, "validation_rows": 4}


def packed(folder, part="train"):
    return TextStore(folder / "texts").packed(LENGTH, SEED, part, SHARE)


def talks(folder, part="train"):
    return ConversationStore(folder / "talks").source(SEED, part, SHARE)


def pretrain(folder, iterations):
    return LanguageTask.on_packed(LanguageConfig(iterations=iterations, **COMMON), packed(folder), packed(folder, "validation"))


def sft(folder, iterations):
    store, sources = ConversationStore(folder / "talks"), (talks(folder, part) for part in ("train", "validation"))
    config = LanguageConfig(iterations=iterations, **COMMON)
    return LanguageTask.on_interactions(config, *sources, STEPS, store.files.load_tokenizer(), LENGTH)


def smat(folder, iterations):
    store, sources = ConversationStore(folder / "talks"), (talks(folder, part) for part in ("train", "validation"))
    config = SmatConfig(phases=(SmatPhase(steps=STEPS, iterations=iterations),), **COMMON)
    return SmatTask(config, *sources, store.files.load_tokenizer(), LENGTH)


STAGES = {"pretrain": pretrain, "sft": sft, "smat": smat}


class Noting:
    """A source of conversations that notes the ids of those that it gives."""

    def __init__(self, source, noted):
        self.source, self.noted = source, noted

    def __getattr__(self, name):
        return getattr(self.source, name)

    def episodes(self, **which):
        found = self.source.episodes(**which)
        self.noted.append(list(map(list, zip(row_ids(found.writes), row_ids(found.turns), strict=True))))
        return found

    available = property(lambda self: self.source.available)
    take = property(lambda self: self.source.take)


def row_ids(batch):
    """The real ids of each row of a batch `[..., batch, time]`, one axis behind the other."""
    ids, mask = (each.reshape(-1, *each.shape[-2:]).unbind(1) for each in (batch.ids, batch.mask))
    return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]


def seen(folder, out, name, iterations):
    """Trains, and returns for each step the ids of each row that this process has had."""
    task = STAGES[name](folder, iterations)
    store = TextStore(folder / "texts") if name == "pretrain" else ConversationStore(folder / "talks")
    codec = store.files.load_tokenizer()
    model = ReactiveTransformer.from_preset("pico", 0, vocab_size=codec.vocab_size, dim=16, layers=1, slots=4, max_length=LENGTH)
    runner = StageRunner(name, model, codec, task, task.config, out)
    # Only now, because its size and its fingerprints are found out by looking at some rows.
    task.size(0)
    noted = []
    if name == "smat":
        task.source = Noting(task.source, noted)
    else:
        rows = task.rows

        def noting(start, count):
            batch = rows(start, count)
            noted.append(row_ids(batch))
            return batch

        task.rows = noting
    runner.train()
    return noted


def main():
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for name, iterations in json.loads((folder / "iterations.json").read_text()).items():
        found = seen(folder, folder / f"{name}-two", name, iterations)
        (folder / f"{name}.{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
