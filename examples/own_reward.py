#!/usr/bin/env python
"""A reward of your own: full marks for right answers in few words. Run it with `python examples/own_reward.py`.

Train with it: `rxrl train --from CHECKPOINT --out runs/brief --reward examples/own_reward.py:brief`.
"""

from collections.abc import Sequence

from rxrl.rewards import check_reward, held, load_reward, sample_turn
from rxrl.types import Turn

ANSWERS = ("A cat.", "A dog.", "cat cat cat cat cat cat", "Mia has a cat and the cat is a very nice cat, I think.", "")


def brief(turns: Sequence[Turn], limit: int = 8) -> list[float | None]:
    """Right answers in few words: 10 up to `limit` words, less beyond; None where nothing is asked."""
    scores: list[float | None] = []
    for turn in turns:
        right = held(turn)  # share of the asked facts that the answer contains
        words = max(1, len(turn.answer.split()))
        scores.append(None if right is None else 10 * right * min(1, limit / words))
    return scores


def main() -> None:
    """Scores some answers, then runs the checks of `rxrl rewards check`."""
    turns = [sample_turn(answer) for answer in ANSWERS]
    print(turns[0].query)
    for turn, score in zip(turns, brief(turns), strict=True):
        print(f"{score:5.1f}  {turn.answer!r}")
    print()
    for check in check_reward(load_reward({"brief": {"use": brief, "weight": 1, "limit": 6}})).checks:
        print(f"{check.name}: {check.status}, {check.detail}")


if __name__ == "__main__":
    main()
