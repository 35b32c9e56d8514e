"""A world of eighteen words and models that fit in it: everything a training needs, in milliseconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rxrl.algorithms import AlgorithmConfig
from rxrl.curricula import Curriculum
from rxrl.data.mixing import MixedSource
from rxrl.envs import ConversationVectorEnv
from rxrl.models import Critic, ReactiveTransformer
from rxrl.policies import ModelPolicy, StmBackend
from rxrl.seeding import Draws
from rxrl.training.callbacks import Callback
from rxrl.training.config import MRLConfig
from rxrl.training.critics import bootstrap_values, critic_values, turns_ahead
from rxrl.training.replay import reference_pass
from rxrl.training.rollout import Rollout, collect
from rxrl.training.targets import Targets, advantages_of, old_policy
from rxrl.training.trainer import MRLTrainer
from rxrl.types import Conversation, Interaction, Score, Turn
from scripts.learning import CODEC, PEOPLE, PETS

OPTIMIZER = {"learning_rate": 0.01, "warmup": 0.0}


def conversation(seed: int, steps: int, name: str = "c") -> Conversation:
    """Something is told, then each turn asks for it or tells something new; interactions differ in length."""
    rng = random.Random(seed)
    told: dict[str, str] = {}

    def tell() -> Interaction:
        people = rng.sample(PEOPLE, rng.choice((1, 1, 2)))
        told.update({person: rng.choice(PETS) for person in people})
        facts = tuple((f"{person}.pet", told[person]) for person in people)
        return Interaction(" and ".join(f"{person} has {told[person]}" for person in people), "ok", facts=facts, asks=())

    def ask() -> Interaction:
        person = rng.choice(sorted(told))
        return Interaction(f"{person} ?", rng.choice((told[person], f"{person} has {told[person]}")), asks=(f"{person}.pet",))

    first = tell()
    follow_ups = tuple((ask if turn == steps - 1 else rng.choice((ask, ask, tell)))() for turn in range(steps))
    return Conversation(f"{name}{seed}-{steps}", first, follow_ups)


def conversations(count: int, steps: int | Sequence[int], start: int = 0) -> list[Conversation]:
    """Conversations of `steps` turns, or of different numbers of turns, in order."""
    lengths = [steps] if isinstance(steps, int) else list(steps)
    return [conversation(start + index, lengths[index % len(lengths)]) for index in range(count)]


class ToySource:
    """An endless supply of toy conversations."""

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        return conversations(count, steps, start)


@dataclass(frozen=True)
class Echo:
    """A scenario in the words of the toy world: the user takes up the first word of each answer, and hides the pet that is worth most."""

    id: str
    steps: int
    pet: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, seed: int) -> EchoDialogue:
        return EchoDialogue(self, seed)


@dataclass(frozen=True)
class EchoDialogue:
    scenario: Echo
    seed: int
    first = Interaction("ok ?", "ok")

    def say(self, heard: Sequence[Turn]) -> Interaction:
        words = heard[-1].answer.split() if heard else []
        drawn = Draws(self.seed, self.scenario.id, len(heard)).choice(PEOPLE)
        return Interaction(" ".join([*words[:1], "and", drawn, "?"]))

    def judge(self, turn: Turn) -> Score:
        words = turn.answer.split()
        # Also of what was said before: the right pet is worth less the second time.
        before = sum(self.scenario.pet in each.answer.split() for each in turn.history)
        return Score(10.0 * (self.scenario.pet in words) / (len(words) + before or 1))


class EchoSource:
    """An endless supply of them."""

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Echo]:
        return [Echo(f"e{index}-{steps}", steps, PETS[index % len(PETS)]) for index in range(start, start + count)]


MIXED: MixedSource[Any] = MixedSource([(ToySource(), 1), (EchoSource(), 2)])
"""Two reacting users to one conversation."""


def scenarios(count: int, steps: Sequence[int]) -> list[Any]:
    """Both kinds in turn, with these numbers of turns."""
    return [MIXED.take(steps=steps[index % len(steps)], start=index, count=1)[0] for index in range(count)]


def recall(turns: Sequence[Turn]) -> list[Score]:
    """10 for the asked word alone, less for what stands beside it; telling turns are scored on their form."""
    scores = []
    for turn in turns:
        words, right = turn.answer.split(), turn.reference.split()[-1]
        held = 10.0 * (right in words) / max(1, len(words))
        scores.append(Score(held, {"held": held, "short": 10.0 / (1 + len(words))}))
    return scores


def earned(turns: Sequence[Turn]) -> list[Score]:
    """The outcome of scenarios, `recall` of conversations."""
    return [turn.outcome or recall([turn])[0] for turn in turns]


def unscored_tells(turns: Sequence[Turn]) -> list[Score]:
    """As `recall`, but turns that ask for nothing have no score."""
    return [score if turn.asking else Score(None) for turn, score in zip(turns, recall(turns), strict=True)]


def lively(turns: Sequence[Turn]) -> list[Score]:
    """A reward that differs from answer to answer, so that advantages do."""
    return [Score(float(sum(turn.answer_ids, turn.index) % 11)) for turn in turns]


def tiny_model(seed: int = 0, double: bool = False, awake: bool = True, **changes: Any) -> ReactiveTransformer:
    """A model whose reads of memory matter (`awake`), in contrast to a fresh one."""
    sizes = {"vocab_size": CODEC.vocab_size, "dim": 16, "layers": 2, "slots": 6, "max_length": 32, "initial_memory": "normal"}
    model = ReactiveTransformer.from_preset("pico", seed, **sizes | changes)
    if awake:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in model.decoder.layers:
                weight = layer.memory_cross_attention.out_proj.weight
                weight.copy_(torch.randn(weight.shape, generator=generator))
            model.embedding.weight.copy_(torch.randn(model.embedding.weight.shape, generator=generator))
    model.eval()
    return model.double() if double else model


def make_env(model: ReactiveTransformer, rows: int, **options: Any) -> ConversationVectorEnv:
    make = options.pop("make", ConversationVectorEnv)
    given = {"reward": lively, "max_answer_tokens": 4, "values": {"pet": PETS}} | options
    return make(conversations(2, 2), memory=StmBackend(model), codec=CODEC, num_envs=rows, **given)


def play(model: ReactiveTransformer, chosen: Sequence[Conversation], rows: int | None = None, **options: Any) -> Rollout:
    """A rollout of some conversations, with a policy of up to 5 tokens."""
    names = ("seed", "iteration", "left", "reset_ratio", "group_size", "whole")
    collecting = {"seed": 1, "iteration": 0} | {name: options.pop(name) for name in names if name in options}
    policy = ModelPolicy(model, 5, temperature=options.pop("temperature", 1.0))
    count = len(chosen) * collecting.get("group_size", 1)
    return collect(make_env(model, rows or count, **options), policy, chosen, **collecting)


def targets_for(
    model: ReactiveTransformer, rollout: Rollout, config: AlgorithmConfig, critic: Critic, reference: ReactiveTransformer | None = None
) -> Targets:
    """What the trainer fixes before the first step."""
    hidden = reference_pass(reference or model, rollout)[0] if config.kl else None
    # The first pass is left out where it supplies its own; so it must not be the one that holds the rows.
    passes = [torch.tensor([], dtype=torch.int64), torch.arange(rollout.batch)]
    with torch.no_grad():
        values = critic_values(critic, rollout, model) * turns_ahead(rollout.turn, rollout.steps, config)
        old, penalties = old_policy(model, rollout, config, passes, hidden, (reference or model).decoder.head)
    bootstrap = bootstrap_values(critic, rollout, model) * turns_ahead(rollout.real.sum(0) + 1, rollout.steps[0], config)
    advantages, returns = advantages_of(rollout, values, config, bootstrap, penalties)
    return Targets(advantages, returns, values, old, hidden)


def toy_critic(model: ReactiveTransformer) -> Critic:
    critic = Critic(model.config)
    return critic.double() if model.dtype == torch.float64 else critic


def widened(rollout: Rollout, columns: int, garbage: int = 9) -> Rollout:
    """The same rollout with more padded columns, which hold `garbage` instead of `[PAD]`."""

    def pad(values: Tensor, fill: Any) -> Tensor:
        return torch.cat([values, values.new_full((*values.shape[:-1], columns), fill)], dim=-1)

    def batch(given: Any) -> Any:
        return replace(given, ids=pad(given.ids.masked_fill(~given.mask, garbage), garbage), mask=pad(given.mask, False))

    return replace(
        rollout,
        writes=batch(rollout.writes),
        turns=batch(rollout.turns),
        critic_tokens=batch(rollout.critic_tokens),
        after=batch(rollout.after),
        answer=pad(rollout.answer, False),
        sampled_log_probs=pad(rollout.sampled_log_probs, 0.0),
    )


def trainer_in(
    folder: Path,
    stages: Curriculum | Iterable[Mapping[str, Any]] = ({"steps": 2, "iterations": 2},),
    *,
    model: ReactiveTransformer | None = None,
    env: Callable[..., ConversationVectorEnv] = ConversationVectorEnv,
    reward: Any = recall,
    source: Any = None,
    start: Any = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> MRLTrainer:
    """A trainer of the toy world whose run is `folder`; `settings` are those of MRLConfig."""
    given = {"episodes": 4, "max_answer_tokens": 4, "evaluation": {"every": 2, "conversations": 3}, "optimizer": OPTIMIZER} | settings
    return MRLTrainer(
        model or tiny_model(),
        CODEC,
        curriculum=stages if isinstance(stages, Curriculum) else Curriculum.custom([dict(stage) for stage in stages]),
        source=source or ToySource(),
        held_out=source or ToySource(),
        config=MRLConfig(**given),
        folder=folder,
        reward=reward,
        env=env,
        start=start,
        callbacks=callbacks,
    )


def lines(trainer: MRLTrainer) -> list[dict[str, Any]]:
    """The metrics that a trainer has written, a line for each iteration."""
    return [json.loads(line) for line in (trainer.folder / "metrics.jsonl").read_text().splitlines()]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights by name."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights have the same names and the same bits."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
