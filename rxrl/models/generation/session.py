"""A conversation with a model: the thin stateful shell around a memory that is a value.

    session = ReactiveSession(model, tokenizer)
    for event in session.ask("My dog is called Rex."):
        if isinstance(event, Token):
            print(event.text, end="", flush=True)

The answer streams first; the memory is written when the iterator is taken past `AnswerEnd`. Leaving it earlier leaves the memory as it was.
With `background=True` the write goes on in a thread while somebody reads or types; whatever needs the memory next waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rxrl.errors import CheckpointError, ModelError
from rxrl.memory import drift
from rxrl.models.generation.batch import generate_steps
from rxrl.models.generation.sampling import chosen_sampling
from rxrl.models.network import ReactiveNetwork
from rxrl.reading import Refusal
from rxrl.reading.tensors import Shapes, read_tensors
from rxrl.types import EOS, TextCodec, TokenBatch, interaction_ids, prompt_ids
from rxrl.writing import replacing

_MEMORY_NAME = "stm"
_UNFINISHED = "\ufffd"


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        text: The text that became certain with it: "" within a character of several bytes. Joined, they are the answer.
        id: Its id; `[EOS]` for the last one, unless the token limit was reached.
        log_prob: Under the distribution it was drawn from.
    """

    text: str
    id: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The answer is complete.

    Attributes:
        text: The whole answer.
        ids: Its ids, without `[EOS]`.
        first_token_seconds: Time to the first token.
        seconds: Time to the last one, what the reader of the events did in between included.
    """

    text: str
    ids: tuple[int, ...]
    first_token_seconds: float = field(default=0.0, compare=False)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class MemoryUpdating:
    """The interaction is being written in the background; `ReactiveSession.wait` returns what comes of it."""


@dataclass(frozen=True, slots=True)
class MemoryUpdated:
    """The interaction is written.

    Attributes:
        drift: Mean squared change of the memory.
        seconds: What the write took.
    """

    drift: float
    seconds: float


Event = Token | AnswerEnd | MemoryUpdating | MemoryUpdated


def stream_tokens(tokenizer: TextCodec, tokens: Iterable[tuple[int, float, bool]]) -> Iterator[Token | AnswerEnd]:
    """Generated tokens with the text that became certain with each, then the whole.

    Args:
        tokenizer: Decodes ids.
        tokens: Id, log-probability and whether it is the last one, of each token.
    """
    answer: list[int] = []
    shown, start, first = "", time.perf_counter(), 0.0
    for token, log_prob, ended in tokens:
        first = first or time.perf_counter() - start
        if token != EOS:
            answer.append(token)
        text = tokenizer.decode(answer)
        certain = text if ended else text.rstrip(_UNFINISHED)
        yield Token(certain[len(shown) :], token, log_prob)
        shown = certain
    yield AnswerEnd(shown, tuple(answer), first, time.perf_counter() - start)


class ReactiveSession:
    """Keeps the memory of one conversation.

    Args:
        model: The Reactive Transformer.
        tokenizer: The one that the model was trained with.
        stm: Memory to start from, `[layers, 1, slots, dim]`; None draws stm0.
        generator: CPU generator of stm0 and of samples; None starts one from seed 0.
        system: A system prompt: written as an initial interaction without an answer, now and after each `reset`.
        background: Write memory in a thread after each answer. An error in it is raised by what needs the memory next, once;
            the memory is then what it was before.

    Raises:
        ModelError: The memory does not fit the model, or the system prompt is too long for it.
    """

    def __init__(
        self,
        model: ReactiveNetwork,
        tokenizer: TextCodec,
        *,
        stm: Tensor | None = None,
        generator: torch.Generator | None = None,
        system: str | None = None,
        background: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self._writer = ThreadPoolExecutor(1, "memory") if background else None
        self._pending: Future[MemoryUpdated] | None = None
        self._begun = 0
        self._generator = torch.Generator().manual_seed(0) if generator is None else generator
        if stm is not None and tuple(stm.shape) != self._memory_shape:
            raise ModelError(f"Memory for this model has the shape {list(self._memory_shape)}, got {list(stm.shape)}.")
        self._stm = self._fresh() if stm is None else stm.detach().to(model.device, model.dtype)
        if system is not None:
            self.write(system, "")

    @property
    def stm(self) -> Tensor:
        """The current memory, `[layers, 1, slots, dim]`; waits for a write in the background."""
        self.wait()
        return self._stm

    def wait(self) -> MemoryUpdated | None:
        """Waits for a write in the background and returns what came of it; None where nothing was being written."""
        pending = self._pending
        if pending is None:
            return None
        try:
            return pending.result()
        finally:
            # Not where the wait itself was interrupted: the write goes on.
            if pending.done():
                self._pending = None

    def ask(
        self,
        text: str,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
    ) -> Iterator[Event]:
        """Answers a query, token by token, then writes the interaction into memory.

        Args:
            text: The query.
            temperature: Of sampling; 0 takes the likeliest token each time. None: 1 with `top_k` or `top_p`, else 0.
            top_k: Sample from this many of the likeliest tokens.
            top_p: Sample from the smallest set of tokens with at least this probability, in (0, 1].
            max_new_tokens: Limit of the answer, `[EOS]` included; None: what the model's length leaves.

        Returns:
            An iterator of `Token`s, then `AnswerEnd`, then `MemoryUpdated` (in the background: `MemoryUpdating`).

        Raises:
            ModelError: The query leaves no room for an answer, or an option is out of range; from the iterator: the memory that the
                answer was read from has been reset or replaced, so that it is not written.
        """
        query_ids = self.tokenizer.encode(text)
        greedy, sampling = chosen_sampling(temperature, top_k, top_p)
        steps = generate_steps(
            self.model,
            TokenBatch.pad([prompt_ids(query_ids)]),
            self.stm,
            max_new_tokens=self.model.config.max_length if max_new_tokens is None else max_new_tokens,
            generators=None if greedy else [self._generator],
            sampling=sampling,
        )
        return self._events(query_ids, ((int(step.tokens), float(step.log_probs), bool(step.ended)) for step in steps), self._begun)

    def write(self, query: str, answer: str) -> MemoryUpdated:
        """Writes an interaction that was not generated, for example a system prompt.

        Raises:
            ModelError: It is longer than the model's limit.
        """
        self.wait()
        return self._write(self.tokenizer.encode(query), self.tokenizer.encode(answer))

    def reset(self) -> None:
        """Forgets the conversation, a write in the background included: fresh stm0, then the system prompt."""
        self._replace(self._fresh())
        if self.system is not None:
            self.write(self.system, "")

    def save(self, path: str | Path) -> None:
        """Writes the memory to a safetensors file; it means something to the model that wrote it only."""
        path, stm = Path(path), self.stm
        with replacing(path) as file:
            save_file({_MEMORY_NAME: stm.cpu().contiguous()}, file, metadata={"model": self.model.config.name})

    def load(self, path: str | Path) -> None:
        """Replaces the memory by a saved one.

        Raises:
            CheckpointError: The file is missing or broken, or holds no memory of this model's shape.
        """

        def check(found: Shapes) -> None:
            shape = found.get(_MEMORY_NAME)
            if shape != self._memory_shape:
                came = "none" if shape is None else f"one of shape {list(shape)}"
                raise CheckpointError(
                    f"{path} should hold a memory of shape {list(self._memory_shape)}, but holds {came}: use the model's own."
                )

        advice = "give a file that `save` wrote"
        missing = f"No memory can be read from {path} (there is no such file): {advice}."
        stm = read_tensors(path, Refusal(CheckpointError, advice, missing), check=check)[0][_MEMORY_NAME]
        if not stm.is_floating_point() or not bool(stm.isfinite().all()):
            raise CheckpointError(f"The memory in {path} holds what is no finite number: use an earlier one.")
        self._replace(stm.to(self.model.device, self.model.dtype))

    def _replace(self, stm: Tensor) -> None:
        """Another memory begins; what a write in the background comes to, nobody needs any more."""
        if self._pending is not None:
            self._pending.exception()
        self._pending, self._stm = None, stm
        self._begun += 1

    @property
    def _memory_shape(self) -> tuple[int, int, int, int]:
        config = self.model.config
        return config.layers, 1, config.slots, config.dim

    def _fresh(self) -> Tensor:
        return self.model.init_memory(1, self._generator).detach()

    def _events(self, query_ids: Sequence[int], tokens: Iterator[tuple[int, float, bool]], begun: int) -> Iterator[Event]:
        answer: tuple[int, ...] = ()
        for event in stream_tokens(self.tokenizer, tokens):
            if isinstance(event, AnswerEnd):
                answer = event.ids
            yield event
        if begun != self._begun:
            raise ModelError("Memory was reset or loaded while this answer streamed, so the answer is not written.")
        if self._writer is None:
            yield self._write(query_ids, answer)
        else:
            self.wait()
            self._pending = self._writer.submit(self._write, query_ids, answer)
            yield MemoryUpdating()

    @torch.no_grad()
    def _write(self, query_ids: Sequence[int], answer_ids: Sequence[int]) -> MemoryUpdated:
        before, start = self._stm, time.perf_counter()
        batch = TokenBatch.pad([interaction_ids(query_ids, answer_ids)], self.model.device)
        after = self.model.write_memory(before, batch.ids, batch.mask)
        change = float(drift(before, after))
        self._stm = after
        return MemoryUpdated(change, time.perf_counter() - start)
