"""What stands between a model and the answers: python scripts/reading.py CHECKPOINT CONVERSATIONS...

Reads files of conversations and looks at each answer that returns one told fact, in five places where memory could come from:

- at hand: the interaction that told it, encoded and not compressed. What is missing here is reading.
- one write: memory after writing this interaction alone. What falls off here does not get into memory.
- conversation: memory as it is, by the turns since it was told. What falls off here does not last.
- another's: the memory of another conversation of the file, and empty: nothing was written. What is right here was guessed.

Prints two Markdown tables for each file, with intervals over conversations: the share of answers whose every token is the likeliest one,
and how often the right answer is likelier, per token, than another answer of the same conversation. The second needs no words to be
found, only to be told apart: it shows what binds where nothing is retained yet.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.data.batches import EpisodeBatch, episode_batch
from rxrl.data.rows import read_conversations
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import RxrlError
from rxrl.evaluation.metrics import bootstrap
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer
from rxrl.models.trajectory import memory_trajectory
from rxrl.seeding import generator
from rxrl.types import Conversation, Interaction

ROWS = 16
DISTANCES = {"1": (1, 1), "2 to 3": (2, 3), "4 to 7": (4, 7), "8 and more": (8, 10**6)}
PLACES = ("at hand", "one write", *(f"conversation, {name} since" for name in DISTANCES), "another's", "empty")


@dataclass(frozen=True, slots=True)
class Question:
    """An answer that returns one told fact.

    Attributes:
        row: The conversation.
        turn: The interaction that asks.
        told: The interaction that told it.
        rival: Another answer of the conversation; None where there is none.
    """

    row: int
    turn: int
    told: int
    rival: str | None


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("conversations", nargs="+")
    options = parser.parse_args()
    model, tokenizer = load_checkpoint(options.checkpoint)
    model.eval()
    for path in options.conversations:
        right, told_apart = measured(model, tokenizer, read_conversations(path))
        print(f"\n{path}\n\n| memory | answers | right | told apart |\n|---|---|---|---|")
        for place in PLACES:
            if right[place]:
                print(f"| {place} | {len(right[place])} | {shown(right[place])} | {shown(told_apart[place])} |")


def shown(found: Sequence[tuple[int, float]]) -> str:
    """Mean with its interval over conversations."""
    if not found:
        return ""
    mean, low, high = bootstrap([value for _, value in found], [row for row, _ in found])
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


Found = dict[str, list[tuple[int, float]]]


@torch.no_grad()
def measured(model: ReactiveTransformer, tokenizer: Tokenizer, conversations: Sequence[Conversation]) -> tuple[Found, Found]:
    """For each place, conversation and value of every answer: whether it is right, and whether it is told apart from a rival."""
    right: Found = defaultdict(list)
    told_apart: Found = defaultdict(list)
    for start in range(0, len(conversations), ROWS):
        some = list(conversations[start : start + ROWS])
        questions = [each for row, conversation in enumerate(some) for each in questions_of(row, conversation)]
        for place, known, own, other in scored(model, tokenizer, some, questions):
            for question, likeliest, mine, theirs in zip(known, *own, other, strict=True):
                right[place].append((start + question.row, float(likeliest)))
                if question.rival is not None:
                    told_apart[place].append((start + question.row, float(mine > theirs)))
    return right, told_apart


def questions_of(row: int, conversation: Conversation) -> Iterator[Question]:
    """The answers of one conversation that return one fact."""
    told: dict[str, int] = {}
    asked = [each for each in conversation.interactions if each.asks]
    for turn, interaction in enumerate(conversation.interactions):
        if len(interaction.asks) == 1 and interaction.asks[0] in told and interaction.answer:
            # The next one, so that every answer is a rival about as often as it is right.
            place = asked.index(interaction)
            others = (each.answer for each in (*asked[place + 1 :], *asked[:place]))
            rival = next((each for each in others if each and each.casefold() != interaction.answer.casefold()), None)
            yield Question(row, turn, told[interaction.asks[0]], rival)
        told |= {key: turn for key, _ in interaction.facts}


Scores = tuple[Tensor, Tensor]


def scored(
    model: ReactiveTransformer, tokenizer: Tokenizer, some: list[Conversation], questions: list[Question]
) -> Iterator[tuple[str, list[Question], Scores, Tensor]]:
    """For each place, the questions, whether the right answer is the likeliest with its mean log-probability, and that of the rival."""
    if not questions:
        return
    length = model.config.max_length
    whole = episode_batch(some, tokenizer, length)
    single = [Conversation(f"{index}", pair[0], (pair[1],)) for index, pair in enumerate(pairs(some, questions))]
    own = episode_batch(single, tokenizer, length)
    other = episode_batch([answered(each, question.rival) for each, question in zip(single, questions, strict=True)], tokenizer, length)
    stm0 = model.init_memory(len(some), generator(0, "reading"))
    stms = memory_trajectory(model, stm0, whole.writes.ids, whole.writes.mask)
    rows, turns = (torch.tensor([getattr(each, name) for each in questions]) for name in ("row", "turn"))
    alone = stm0[:, :1].expand(-1, len(questions), -1, -1)
    encoded = model.encode(own.writes.ids[0], own.writes.mask[0])
    places: dict[str, tuple[Tensor, Tensor | None]] = {
        "at hand": (encoded, own.writes.mask[0]),
        "one write": (memory_trajectory(model, alone, own.writes.ids, own.writes.mask)[:, 0], None),
        "conversation": (stms[:, turns - 1, rows], None),
        "empty": (alone, None),
    }
    if len(some) > 1:
        places["another's"] = (stms[:, turns - 1, (rows + 1) % len(some)], None)
    for place, (memory, mask) in places.items():
        mine, theirs = (log_probabilities(model, batch, memory, mask) for batch in (own, other))
        if place != "conversation":
            yield place, questions, mine, theirs[1]
            continue
        for name, (least, most) in DISTANCES.items():
            chosen = [index for index, each in enumerate(questions) if least <= each.turn - each.told <= most]
            if chosen:
                yield f"{place}, {name} since", [questions[each] for each in chosen], (mine[0][chosen], mine[1][chosen]), theirs[1][chosen]


def pairs(some: list[Conversation], questions: list[Question]) -> Iterator[tuple[Interaction, Interaction]]:
    """What told each fact, and what asks for it."""
    for question in questions:
        interactions = some[question.row].interactions
        yield interactions[question.told], interactions[question.turn]


def answered(conversation: Conversation, answer: str | None) -> Conversation:
    """A conversation of one turn with another answer."""
    (turn,) = conversation.follow_ups
    return conversation if answer is None else replace(conversation, follow_ups=(replace(turn, answer=answer),))


def log_probabilities(model: ReactiveTransformer, batch: EpisodeBatch, memory: Tensor, mask: Tensor | None) -> Scores:
    """Whether every token of each answer is the likeliest, and the mean log-probability of its tokens, `[batch]` both."""
    ids, answer = batch.turns.ids[0], batch.answer[0]
    hidden = model.decode_hidden(ids, batch.turns.mask[0], memory, mask, None)
    logits = model.decoder.head(hidden[:, :-1])
    targets, counted = ids[:, 1:], answer[:, 1:]
    found = -F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * counted
    likeliest = ((logits.argmax(-1) == targets) | ~counted).all(1)
    return likeliest, found.sum(1) / counted.sum(1)


if __name__ == "__main__":
    try:
        main()
    except RxrlError as error:
        sys.exit(f"Error: {error}")
