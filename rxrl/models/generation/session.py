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
from typing import Literal, get_args

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
from rxrl.template import CALL, has_template, interaction_tokens, prompt_tokens, system_interaction
from rxrl.types import ANSWER, EOS, TextCodec, TokenBatch, interaction_ids
from rxrl.writing import replacing

Segment = Literal["think", "answer", "tool_call"]

_MEMORY_NAME = "stm"
_UNFINISHED = "\ufffd"


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        text: The text that became certain with it: "" within a character of several bytes. Joined, they are the answer.
        id: Its id; `[EOS]` for the last one, unless the token limit was reached.
        log_prob: Under the distribution it was drawn from.
        segment: What it belongs to: `answer`, or `think` or `tool_call` of the template.
    """

    text: str
    id: int
    log_prob: float
    segment: Segment = "answer"


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The answer is complete.

    Attributes:
        text: The whole answer, without what was thought and a tool call.
        ids: All ids that were said, without `[EOS]`.
        first_token_seconds: Time to the first token.
        seconds: Time to the last one, what the reader of the events did in between included.
        thought: What was thought before the answer.
        tool_call: What a tool is asked for, behind the answer.
    """

    text: str
    ids: tuple[int, ...]
    first_token_seconds: float = field(default=0.0, compare=False)
    seconds: float = field(default=0.0, compare=False)
    thought: str = ""
    tool_call: str = ""


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


def stream_tokens(tokenizer: TextCodec, tokens: Iterable[tuple[int, float, bool]], think: bool = False) -> Iterator[Token | AnswerEnd]:
    """Generated tokens with the text that became certain with each, then the whole.

    Args:
        tokenizer: Decodes ids.
        tokens: Id, log-probability and whether it is the last one, of each token.
        think: Whether they begin with what is thought, up to `[A]`.
    """
    said: list[int] = []
    texts: dict[Segment, str] = dict.fromkeys(get_args(Segment), "")
    now: Segment = "think" if think else "answer"
    own: list[int] = []
    borders: dict[int, Segment] = {ANSWER: "answer", CALL: "tool_call"} if has_template(tokenizer) else {}
    start, first = time.perf_counter(), 0.0
    for token, log_prob, ended in tokens:
        first = first or time.perf_counter() - start
        if token != EOS:
            said.append(token)
        if token in borders:
            now, own = borders[token], []
        elif token != EOS:
            own.append(token)
        text = tokenizer.decode(own)
        certain = text if ended else text.rstrip(_UNFINISHED)
        yield Token(certain[len(texts[now]) :], token, log_prob, now)
        texts[now] = certain
    seconds = time.perf_counter() - start
    yield AnswerEnd(texts["answer"], tuple(said), first, seconds, texts["think"], texts["tool_call"])


class ReactiveSession:
    """Keeps the memory of one conversation.

    Args:
        model: The Reactive Transformer.
        tokenizer: The one that the model was trained with.
        stm: Memory to start from, `[layers, 1, slots, dim]`; None draws stm0.
        generator: CPU generator of stm0 and of samples; None starts one from seed 0.
        system: A system prompt: written as the initial interaction, now and after each `reset`.
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
            self.write_system(system)

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
        think: bool = False,
        calls: bool = False,
        result: bool = False,
    ) -> Iterator[Event]:
        """Answers a query, token by token, then writes the interaction into memory.

        Args:
            text: The query.
            temperature: Of sampling; 0 takes the likeliest token each time. None: 1 with `top_k` or `top_p`, else 0.
            top_k: Sample from this many of the likeliest tokens.
            top_p: Sample from the smallest set of tokens with at least this probability, in (0, 1].
            max_new_tokens: Limit of the answer, `[EOS]` included; None: what the model's length leaves.
            think: Let the model think before it answers.
            calls: Let it call a tool behind its answer.
            result: The text is what a tool gave back.

        Returns:
            An iterator of `Token`s, then `AnswerEnd`, then `MemoryUpdated` (in the background: `MemoryUpdating`).

        Raises:
            ModelError: The query leaves no room for an answer, or an option is out of range; from the iterator: the memory that the
                answer was read from has been reset or replaced, so that it is not written.
            DataError: Thinking or tools are asked for, and the tokenizer has no markers for them.
        """
        prompt = prompt_tokens(text, self.tokenizer, think=think, result=result)
        greedy, sampling = chosen_sampling(temperature, top_k, top_p)
        steps = generate_steps(
            self.model,
            TokenBatch.pad([prompt]),
            self.stm,
            max_new_tokens=self.model.config.max_length if max_new_tokens is None else max_new_tokens,
            generators=None if greedy else [self._generator],
            sampling=sampling,
            calls=calls,
        )
        tokens = ((int(step.tokens), float(step.log_probs), bool(step.ended)) for step in steps)
        return self._events(prompt, stream_tokens(self.tokenizer, tokens, think), self._begun)

    def write(self, query: str, answer: str) -> MemoryUpdated:
        """Writes an interaction that was not generated, for example a system prompt.

        Raises:
            ModelError: It is longer than the model's limit.
        """
        self.wait()
        return self._write(interaction_ids(self.tokenizer.encode(query), self.tokenizer.encode(answer)))

    def write_system(self, text: str) -> MemoryUpdated:
        """Writes a system prompt, as training does where a conversation begins with one.

        Raises:
            ModelError: It is longer than the model's limit.
        """
        self.wait()
        return self._write(interaction_tokens(system_interaction(text), self.tokenizer).ids)

    def reset(self) -> None:
        """Forgets the conversation, a write in the background included: fresh stm0, then the system prompt."""
        self._replace(self._fresh())
        if self.system is not None:
            self.write_system(self.system)

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
        return config.memory_layers, 1, config.slots, config.dim

    def _fresh(self) -> Tensor:
        return self.model.init_memory(1, self._generator).detach()

    def _events(self, prompt: Sequence[int], said: Iterator[Token | AnswerEnd], begun: int) -> Iterator[Event]:
        answer: tuple[int, ...] = ()
        for event in said:
            if isinstance(event, AnswerEnd):
                answer = event.ids
            yield event
        if begun != self._begun:
            raise ModelError("Memory was reset or loaded while this answer streamed, so the answer is not written.")
        if self._writer is None:
            yield self._write([*prompt, *answer, EOS])
        else:
            self.wait()
            self._pending = self._writer.submit(self._write, [*prompt, *answer, EOS])
            yield MemoryUpdating()

    @torch.no_grad()
    def _write(self, ids: Sequence[int]) -> MemoryUpdated:
        before, start = self._stm, time.perf_counter()
        batch = TokenBatch.pad([ids], self.model.device)
        after = self.model.write_memory(before, batch.ids, batch.mask)
        change = float(drift(before, after))
        self._stm = after
        return MemoryUpdated(change, time.perf_counter() - start)
