"""Stories told in conversation: python scripts/tales.py TEXTS HELD_OUT_TEXTS FAIRYTALEQA OUT.

Makes the files on which a model learns to read and to remember real text, from plain texts (rows with `text`) and FairytaleQA:

- reading.jsonl: one piece told and asked for at once, for the stage `reading`: passages of the texts, and questions of FairytaleQA with the
  piece that tells their answer.
- conversations.jsonl: the same and conversations of up to 16 turns, for the stages after it and for MRL.
- dev.jsonl and dev-reading.jsonl: held out while training, from 16 stories of FairytaleQA's training split and from the held-out texts.
- test-passages.jsonl and test-fairytaleqa.jsonl: conversations of the held-out texts, and the validation split of FairytaleQA.

Questions of FairytaleQA are few, so each stands there four times.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rxrl.data.importers import import_fairytaleqa, import_passages
from rxrl.data.pairs import told_and_asked
from rxrl.data.rows import write_conversations
from rxrl.errors import RxrlError
from rxrl.types import Conversation

HELD_OUT_STORIES, DEV_PASSAGES, DEV_READING, TEST_PASSAGES, COPIES = 16, 80, 256, 200, 4


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts")
    parser.add_argument("held_out")
    parser.add_argument("fairytaleqa")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rng = random.Random(0)
    tales = import_fairytaleqa(options.fairytaleqa, keep_valid=True).conversations
    stories = sorted({str(each.extra["story"]) for each in tales})
    held_out = set(rng.sample(stories, min(HELD_OUT_STORIES, len(stories) // 2)))
    dev = [each for each in tales if each.extra["story"] in held_out]
    train = [each for each in tales if each.extra["story"] not in held_out]
    passages, pieces = (import_passages(options.texts, max_turns=turns).conversations for turns in (16, 1))
    others, other_pieces = (import_passages(options.held_out, max_turns=turns).conversations for turns in (16, 1))
    for some in (others, other_pieces):
        rng.shuffle(some)
    reading = [*pieces, *copies(list(told_and_asked(train)))]
    files = {
        "reading": mixed(reading, rng),
        "conversations": mixed([*reading, *passages, *copies(train)], rng),
        "dev-reading": numbered([*told_and_asked(dev), *other_pieces[:DEV_READING]]),
        "dev": numbered([*dev, *others[:DEV_PASSAGES]]),
        "test-passages": numbered(others[DEV_PASSAGES : DEV_PASSAGES + TEST_PASSAGES]),
        "test-fairytaleqa": import_fairytaleqa(options.fairytaleqa, split="validation", keep_valid=True).conversations,
    }
    for name, conversations in files.items():
        path = options.out / f"{name}.jsonl"
        print(f"Wrote {write_conversations(path, conversations)} conversations to {path}.", flush=True)


def copies(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Each several times."""
    return [each for _ in range(COPIES) for each in conversations]


def mixed(conversations: list[Conversation], rng: random.Random) -> list[Conversation]:
    """In another order, with ids of their own."""
    rng.shuffle(conversations)
    return numbered(conversations)


def numbered(conversations: Sequence[Conversation]) -> list[Conversation]:
    """With ids of their own: the same story, or the same number of a piece, occurs more than once."""
    return [replace(each, id=f"{number}-{each.id}") for number, each in enumerate(conversations)]


if __name__ == "__main__":
    try:
        main()
    except RxrlError as error:
        sys.exit(f"Error: {error}")
