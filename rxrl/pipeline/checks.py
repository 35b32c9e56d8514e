"""What is looked at before anything is trained, so that a mistake in the last part shows before the first begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rxrl.curricula import Curriculum
from rxrl.data.batches import checked_ids
from rxrl.data.sources import RowsSource
from rxrl.data.splits import Sources
from rxrl.envs import ENVIRONMENTS, check_references, check_scores
from rxrl.errors import ConfigError, DataError
from rxrl.factory import TokenEmbeddings
from rxrl.models import ReactiveTransformer
from rxrl.pipeline.config import StagesConfig
from rxrl.runs.optim import check_groups
from rxrl.stages.config import LanguageConfig, ReadingConfig, SmatConfig, StageConfig
from rxrl.training.config import MRLConfig
from rxrl.training.episodes import stage_rewards
from rxrl.training.rules import check_rules, check_signals, check_stages
from rxrl.types import Conversation, RewardFunction, TextCodec

_MARKERS = 8
"""Tokens of an interaction that are no text, at most."""
_READ, _FEW = 64, 0.1
"""Conversations of the stage `reading` that are looked at, and the share of them that must ask for something."""
_FIRST_TURNS, _WHOLE = 500, 50
"""Generated conversations of one turn, and of as many as are trained on, whose lengths are looked at."""
_LOOKED_AT = 16
"""Conversations of a stage that are looked at; those of a mix alternate."""


def check_training(curriculum: Curriculum, config: MRLConfig, model: ReactiveTransformer, sources: Sources, processes: int = 1) -> None:
    """Looks at everything that a stage will need, so that a mistake in the last one shows before the first."""
    ENVIRONMENTS.find(config.env)
    check_thoughts(config, model.config.template)
    check_rewards(curriculum, stage_rewards(curriculum, config, TokenEmbeddings(model)), sources)
    check_rules(curriculum, sources.played[1], config.evaluation.conversations)
    check_stages(curriculum, config, processes)
    check_signals(curriculum, config, sources.played[0])
    check_groups(config.optimizer, model.group_parameters())
    check_groups(config.critic_optimizer, ["critic"])
    check_supply(curriculum, sources)


def check_thoughts(config: MRLConfig, template: bool) -> None:
    """Refuses thoughts of a model whose vocabulary has no markers for them."""
    if config.max_think_tokens and not template:
        raise ConfigError(
            "max_think_tokens needs a tokenizer with the markers of the interaction template, and this model has none: "
            "leave it out, or train the model on rows with `think`."
        )


def check_supply(curriculum: Curriculum, sources: Sources) -> None:
    """Refuses a curriculum with stages for which there are no conversations."""
    for stage in curriculum.stages:
        for strategy in stage.strategies:
            for source in sources.played:
                source.take(steps=stage.steps, strategy=strategy, start=0, count=1)


def check_rewards(curriculum: Curriculum, rewards: Mapping[str, RewardFunction], sources: Sources) -> None:
    """Refuses rewards that could not score the conversations of their stages.

    Args:
        curriculum: Stages.
        rewards: The reward of each stage by its name.
        sources: What is played.

    Raises:
        ConfigError: A reward compares with what the conversations do not have.
    """
    for stage in curriculum.stages:
        for strategy in stage.strategies:
            found = sources.played[0].take(steps=stage.steps, strategy=strategy, start=0, count=_LOOKED_AT)
            check_references(found, forcing=float(stage.teacher_forcing), reward=rewards[stage.name])
            check_scores(found, rewards[stage.name])


def check_turns(stages: StagesConfig, sources: Sources) -> None:
    """Refuses supervised stages whose conversations are longer than any there is, and names the setting."""
    wanted = [(f"stages.smat.phases, {phase.steps} steps", phase.steps) for phase in stages.smat.phases]
    if stages.memory_attention is not None:
        wanted.append(("stages.memory_attention.steps", stages.memory_attention.steps))
    for setting, steps in wanted:
        for source in (sources.train, sources.validation):
            try:
                source.take(steps=steps, strategy="multi-step", start=0, count=1)
            except DataError as error:
                raise DataError(f"{setting}: {error}") from None


def longest_turns(sources: Sources, most: int) -> int:
    """Turns of the longest conversations that there are in training and validation, `most` at most; 1 where there are none at all."""

    def has(steps: int) -> bool:
        try:
            for source in (sources.train, sources.validation):
                source.take(steps=steps, strategy="multi-step", start=0, count=1)
        except DataError:
            return False
        return True

    return next((steps for steps in range(most, 1, -1) if has(steps)), 1)


def check_fit(sources: Sources, tokenizer: TextCodec, max_length: int, steps: int = 1) -> None:
    """Refuses conversations with an interaction that is longer than the model's limit, before the first stage needs minutes.

    Args:
        sources: Of generated conversations the first few hundred are looked at, of those of files all.
        tokenizer: Of the model.
        max_length: Longest interaction of the model in tokens.
        steps: Turns of the longest generated conversations.

    Raises:
        DataError: An interaction is longer; the message names conversation and turn.
    """
    for conversation in _conversations(sources, steps):
        for turn, interaction in enumerate(conversation.interactions):
            # No token is shorter than a byte: most interactions need not be cut into tokens to be known as short.
            texts = (interaction.query, interaction.answer, *(each for each in interaction.extra.values() if isinstance(each, str)))
            if sum(len(text.encode(errors="surrogatepass")) for text in texts) > max_length - _MARKERS:
                checked_ids(conversation, turn, tokenizer, max_length)


def short_answers(sources: Sources, tokenizer: TextCodec, max_answer_tokens: int, steps: int = 1) -> str | None:
    """What to say where reference answers are longer than answers may become, so that nobody can earn the full reward; else None."""
    longest, place = 0, ""
    for conversation in _conversations(sources, steps):
        for turn, interaction in enumerate(conversation.follow_ups, 1):
            if len(interaction.answer.encode(errors="surrogatepass")) > max(longest, max_answer_tokens):
                tokens = len(tokenizer.encode(interaction.answer))
                longest, place = (tokens, f"turn {turn} of conversation {conversation.id!r}") if tokens > longest else (longest, place)
    if longest <= max_answer_tokens:
        return None
    return (
        f"Answers of MRL end after {max_answer_tokens} tokens, but references have up to {longest} ({place}), and earn less for it: "
        f"set mrl.max_answer_tokens to {longest} or more."
    )


def _conversations(sources: Sources, steps: int) -> Iterator[Conversation]:
    """Conversations of files, and some of those that are generated: the first interaction of many, and whole ones."""
    for source in (sources.train, sources.validation):
        if isinstance(source, RowsSource):
            yield from source.conversations
            continue
        for turns, count in {1: _FIRST_TURNS, steps: _WHOLE}.items():
            found = source.take(steps=turns, strategy="multi-step", start=0, count=count)
            yield from (each for each in found if isinstance(each, Conversation))


def check_parts(name: str, config: StageConfig, model: ReactiveTransformer) -> None:
    """Refuses language modelling with an encoder by a model that has none, before it begins."""
    alone = isinstance(config, LanguageConfig) and config.mode == "separate" and config.encoder_share == 0
    if isinstance(config, LanguageConfig) and "encoder" in model.config.absent and not alone:
        raise ConfigError(
            f"This model has no encoder, which the stage {name} trains too: to train the decoder alone, "
            "add --set mode=separate --set encoder_share=0 --set freeze_embedding=false."
        )


def reading_hint(sources: Sources) -> str | None:
    """What to say where hardly any conversation asks for something in its first turn, which is all that the stage `reading` learns from."""
    found = sources.train.take(steps=ReadingConfig.steps, strategy="multi-step", start=0, count=_READ)
    asking = sum(bool(each.follow_ups[0].asks) for each in found)
    if any(each.follow_ups[0].asks is None for each in found) or asking >= _READ * _FEW:
        return None
    return (
        f"Of {_READ} conversations {asking} ask for something in their first turn, and the stage reading learns from these alone: "
        "`rxrl data pairs SOURCE OUT` writes each question with the interaction that told its answer."
    )


def check_lengths(config: StageConfig, sources: Sources) -> None:
    """Takes a conversation of every length that the stage will need; the data says it where there is none."""
    if isinstance(config, SmatConfig):
        wanted = {("multi-step" if phase.steps == 1 else config.strategy, phase.steps) for phase in config.phases}
    else:
        wanted = {("multi-step", getattr(config, "steps", 0))}
    for strategy, steps in sorted(wanted):
        for source in (sources.train, sources.validation):
            if steps:
                source.take(steps=steps, strategy=strategy, start=0, count=1)
