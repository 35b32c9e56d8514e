"""A causal language model of Hugging Face as a player: it re-reads the transcript, through its chat template, at every turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor

from rxrl.errors import CheckpointError, ConfigError, MissingExtraError
from rxrl.models.generation.sampling import check_finite
from rxrl.policies.text import Dialogue, TextPolicy, check_options
from rxrl.types import TextCodec

_SET_HERE = frozenset({"conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_tensors", "return_dict"})


class HuggingFacePolicy(TextPolicy):
    """Answers with a causal language model.

    The oldest interactions are left out where the whole transcript does not fit the model's context.

    Args:
        model: A causal language model with `generate`.
        tokenizer: Its tokenizer, with a chat template.
        codec: That of the environment; the model's own tokenizer stays inside.
        system: A system prompt that goes first.
        max_new_tokens: Longest answer, in tokens of the model.
        temperature: Of sampled answers, above 0.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": False}`.

    Raises:
        ConfigError: The tokenizer has no chat template, or a variable is one that the player sets itself.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        codec: TextCodec,
        *,
        system: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(codec)
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(f"{type(tokenizer).__name__} has no chat template: set `tokenizer.chat_template`, or take a chat model.")
        check_options(temperature, max_new_tokens)
        self.model, self.tokenizer, self.system = model.eval(), tokenizer, system
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.chat_template_kwargs = checked_variables(chat_template_kwargs)

    @classmethod
    def load(cls, name: str | Path, codec: TextCodec, *, device: torch.device | str = "cpu", **options: Any) -> HuggingFacePolicy:
        """Loads model and tokenizer from a folder or from the Hub, the model onto `device`.

        Raises:
            MissingExtraError: transformers is not installed.
            CheckpointError: They cannot be loaded.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("A Hugging Face model", "trl") from None
        try:
            model, loaded = AutoModelForCausalLM.from_pretrained(str(name), output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(str(name))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"No causal language model can be loaded from {name} ({reason}): give a folder or a Hub name.") from None
        if missing := sorted(loaded["missing_keys"]):
            raise CheckpointError(
                f"{name} lacks {len(missing)} weights of a causal language model (first: {missing[0]}), which would be random: "
                "give a whole model."
            )
        return cls(model.to(device), tokenizer, codec, **options)

    @torch.no_grad()
    def answer(self, dialogues: Sequence[Dialogue], generators: Sequence[torch.Generator] | None) -> list[str]:
        """Answers all dialogues in one batch.

        Raises:
            PolicyError: The model's logits are not finite.
        """
        if not dialogues:
            return []
        processors: list[Callable[[Tensor, Tensor], Tensor]] = [check_scores]
        if generators is not None:
            processors.append(GumbelNoise(generators, self.temperature))
        found = generate(
            self.model,
            self.tokenizer,
            [self._prompt(dialogue) for dialogue in dialogues],
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            logits_processor=processors,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(found, skip_special_tokens=True)]

    def _prompt(self, dialogue: Dialogue) -> list[int]:
        """Ids of the chat, with as much of the history as leaves room for an answer."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        for last in range(len(dialogue.history), -1, -1):
            chat = chat_text(self.tokenizer, dialogue.messages(self.system, last), **self.chat_template_kwargs)
            ids: list[int] = self.tokenizer(chat, add_special_tokens=False)["input_ids"]
            if limit is None or len(ids) + self.max_new_tokens <= limit:
                return ids
        raise ConfigError(
            f"A query of {len(ids)} tokens and an answer of {self.max_new_tokens} do not fit the model's {limit} positions: "
            "lower max_new_tokens, or take a model with a longer context."
        )


def checked_variables(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Variables of a chat template, none of which are arguments of `apply_chat_template` that are set here.

    Raises:
        ConfigError: They are no mapping, or name such an argument.
    """
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
        raise ConfigError(f"chat_template_kwargs must be a mapping from names to values, got {given!r}.")
    if wrong := sorted(_SET_HERE.intersection(given or {})):
        raise ConfigError(f"chat_template_kwargs cannot set {wrong[0]!r}, which the player sets itself: leave it out.")
    return dict(given or {})


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
    """A chat as the template of a tokenizer writes it, up to where the answer begins.

    Args:
        tokenizer: Has a chat template.
        messages: `role` and `content` of each message, oldest first.
        options: Variables of the template.

    Raises:
        ConfigError: The template refuses the messages.
    """
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except TemplateError as error:
        raise ConfigError(f"The chat template refuses these messages ({error}): does it take a system prompt?") from None
    return text


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model, which may end a turn with another one than a text."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = own if isinstance(own, list) else [own]
    return sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})


def generate(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], **options: Any) -> Tensor:
    """Continues rows of token ids in one batch, without the settings of generation that the model comes with.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Ids of each prompt, at least one.
        options: As in `model.generate`.

    Returns:
        int64 `[batch, time]`: what comes after each prompt; padded behind the first token that ends an answer.
    """
    ends = end_tokens(model, tokenizer)
    pad = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
    width = max(map(len, rows))
    # On the left, so that every answer begins right behind its prompt.
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with _plain_generation(model):
        found: Tensor = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=pad, eos_token_id=ends, **options)
    return found[:, width:]


def check_scores(input_ids: Tensor, scores: Tensor) -> Tensor:
    """The scores `[batch, vocab]` as they are, refused where they are not finite."""
    # Of a row that holds NaN the maximum is NaN, and the sum of maxima of finite rows is finite.
    check_finite(scores.max(-1).values.sum())
    return scores


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Without the settings that the model comes with: beams, penalties or another form of output would change what an answer is."""
    own = model.generation_config
    model.generation_config = type(own)()
    try:
        yield
    finally:
        model.generation_config = own


class GumbelNoise:
    """Turns the likeliest token into a sampled one: each row's noise comes from its own generator, whatever the batch.

    Adding Gumbel noise and taking the maximum is sampling (Gumbel, 1954).

    Args:
        generators: One CPU generator a row.
        temperature: Above 0; divides the logits.
    """

    def __init__(self, generators: Sequence[torch.Generator], temperature: float) -> None:
        self.generators, self.temperature = generators, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy scores, `[batch, vocab]` in and out."""
        uniform = torch.stack([torch.rand(scores.shape[1], generator=each, dtype=torch.float64) for each in self.generators])
        noise = -(-(uniform.clamp(min=torch.finfo(torch.float64).tiny)).log()).log()
        return scores / self.temperature + noise.to(scores)
