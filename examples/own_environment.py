#!/usr/bin/env python
"""An environment of your own: saying the same thing twice costs two points. Run it with `python examples/own_environment.py`.

Train in it: `rxrl train --from CHECKPOINT --out runs/no-repeats --env examples/own_environment.py:NoRepeats`.
"""

from collections.abc import Sequence

from rxrl.data import GeneratedSource, Tokenizer
from rxrl.envs import ConversationVectorEnv, TranscriptMemory, token_batch
from rxrl.policies import Oracle, Parrot
from rxrl.rewards import load_reward
from rxrl.types import Policy, Score, Turn


class NoRepeats(ConversationVectorEnv):
    """Only questions count, and an answer that the conversation has heard before loses two points."""

    def score(self, turns: Sequence[Turn]) -> list[Score]:
        """Adjusts the scores of the reward that the environment was given."""
        scores = []
        for turn, score in zip(turns, super().score(turns), strict=True):
            if not turn.asking or score.value is None:
                scores.append(Score(None, score.terms))
                continue
            repeated = any(turn.answer == earlier.answer for earlier in turn.history)
            scores.append(Score(max(0.0, score.value - 2 * repeated), {**score.terms, "repeated": 10.0 * repeated}))
        return scores


def mean_reward(envs: ConversationVectorEnv, player: Policy) -> float:
    """Plays one conversation in each row and returns the mean reward of the turns that were scored."""
    rewards: list[float] = []
    observation, info = envs.reset(seed=0)
    while envs.active.any():
        action = player.act(token_batch(observation), envs.memory, None)
        observation, reward, _, _, info = envs.step(action)
        rewards += reward[info["scored"]].tolist()
    return sum(rewards) / len(rewards)


def main() -> None:
    """Plays the environment with the reference answers, and with answers that repeat the query."""
    talks = GeneratedSource(level=1, seed=0, split="test").take(steps=6, strategy="multi-step", start=0, count=8)
    texts = [text for talk in talks for each in talk.interactions for text in (each.query, each.answer)]
    envs = NoRepeats(
        talks, memory=TranscriptMemory(), reward=load_reward("retention"), codec=Tokenizer.train(texts, vocab_size=512), num_envs=8
    )
    for player in (Oracle(envs), Parrot()):
        print(f"{type(player).__name__}: {mean_reward(envs, player):.1f} of 10")


if __name__ == "__main__":
    main()
