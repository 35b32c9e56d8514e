"""Small rewards to shape with: exact match, overlap of words and tokens, length, repetition and format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from rxrl.errors import MissingExtraError
from rxrl.facts import LONGEST, value_words, words
from rxrl.rewards.bleu import WEIGHTS, Smoothing, bleu
from rxrl.rewards.classic import length_ratio
from rxrl.rewards.options import Options, ten
from rxrl.rewards.shape import has_markup, repetition_shape
from rxrl.types import Score, Turn

_LONGEST_BLEU = 1 << 16
"""Characters of a text that sacrebleu is given; it keeps the words of the last 65,536 texts."""


def references_of(turn: Turn) -> tuple[str, ...]:
    """Everything that is right as a whole answer: the reference, its aliases, and the value where one fact is asked."""
    whole = (turn.reference, *turn.aliases.get("*", ()))
    if len(turn.expected) != 1:
        return whole
    [(key, value)] = turn.expected.items()
    return (*whole, value, *turn.aliases.get(key, ()))


class Exact(Options):
    """10 where the answer is, word by word, a right answer (reference, alias, or the one value asked for), else 0."""

    name: ClassVar[str] = "exact"
    needs_reference: ClassVar[bool] = True

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [Score(10.0 * any(_same(turn.answer, right) for right in references_of(turn))) for turn in turns]


class TokenF1(Options):
    """10 * F1 between the words of the answer and those of the reference, repetitions counted; the best alias counts."""

    name: ClassVar[str] = "token_f1"
    needs_reference: ClassVar[bool] = True

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [Score(10.0 * self._best(turn)) for turn in turns]

    @staticmethod
    def _best(turn: Turn) -> float:
        answer = Counter(words(turn.answer))
        rights = (turn.reference, *turn.aliases.get("*", ()))
        return max(_f1(answer, reference) if (reference := Counter(words(right))) else _same(turn.answer, right) for right in rights)


class Bleu(Options):
    """10 * BLEU against the reference; None where the turn has no reference."""

    name: ClassVar[str] = "bleu"
    needs_reference: ClassVar[bool] = True

    level: Literal["tokens", "text"] = Field("tokens", description="Token ids, or text through sacrebleu (extra `bleu`).")
    ngram_weights: tuple[float, ...] = Field(WEIGHTS, min_length=1, max_length=4, description="Tokens: weights of 1-grams to 4-grams.")
    smoothing: Smoothing = Field("method4", description="Tokens: how orders without a match are smoothed.")
    brevity: bool = Field(True, description="Tokens: whether short answers are penalised.")
    lowercase: bool = Field(False, description="Text: whether case is ignored.")
    tokenize: str = Field("13a", description="Text: sacrebleu's tokenizer.")

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        shares, there = self._of_text(turns) if self.level == "text" else self._of_tokens(turns)
        return [Score(ten(share) if known else None) for share, known in zip(shares, there, strict=True)]

    def _of_tokens(self, turns: Sequence[Turn]) -> tuple[list[float], list[bool]]:
        answers, references = [turn.answer_ids for turn in turns], [turn.reference_ids for turn in turns]
        scores = bleu(answers, references, weights=self.ngram_weights, smoothing=self.smoothing, brevity=self.brevity)
        return scores.tolist(), [bool(reference) for reference in references]

    def _of_text(self, turns: Sequence[Turn]) -> tuple[list[float], list[bool]]:
        score = _text_bleu(self.lowercase, self.tokenize)
        return [score(turn.answer, turn.reference) for turn in turns], [bool(turn.reference.strip()) for turn in turns]


@cache
def _text_bleu(lowercase: bool, tokenize: str) -> Callable[[str, str], float]:
    """Sentence BLEU of an answer against a reference, in [0, 1]."""
    try:
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("BLEU on text", "bleu") from None
    # Without effective_order an exact answer of one word scores 0.
    metric: Any = BLEU(effective_order=True, lowercase=lowercase, tokenize=tokenize)
    return lambda answer, reference: float(metric.sentence_score(answer[:_LONGEST_BLEU], [reference[:_LONGEST_BLEU]]).score) / 100


class Length(Options):
    """10 * the length of the answer over that of the reference (or the other way round where it is longer), in tokens."""

    name: ClassVar[str] = "length"
    needs_reference: ClassVar[bool] = True

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [Score(10.0 * length_ratio(len(turn.answer_ids), len(turn.reference_ids))) for turn in turns]


class Repetition(Options):
    """10 where the answer repeats itself no more than the reference does, falling to 0 for a loop; 0 when empty."""

    name: ClassVar[str] = "repetition"

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        pairs = [(words(turn.answer), words(turn.reference)) for turn in turns]
        return [Score(10.0 * repetition_shape(answer, reference) if answer else 0.0) for answer, reference in pairs]


class Format(Options):
    """10 * the share of its rules that an answer keeps; 0 where it is empty or holds prompt markup.

    Terms: one for each rule that is on, 10 or 0.
    """

    name: ClassVar[str] = "format"

    one_line: bool = Field(True, description="Rule: no line break.")
    max_words: int | None = Field(None, ge=1, description="Rule: at most so many words.")
    pattern: str | None = Field(None, description="Rule: a regular expression (RE2, extra `patterns`) that the whole answer matches.")
    ends_with: tuple[str, ...] = Field((), description="Rule: the answer ends with one of these.")

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            _matcher(pattern)
        return pattern

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [self._score(turn.answer) for turn in turns]

    def _score(self, answer: str) -> Score:
        text = answer.strip()
        rules = {"answer": bool(text) and not has_markup(answer)}
        if self.one_line:
            rules["one_line"] = "\n" not in text
        if self.max_words is not None:
            rules["max_words"] = len(words(text)) <= self.max_words
        if self.pattern is not None:
            rules["pattern"] = _matcher(self.pattern)(text)
        if self.ends_with:
            rules["ends_with"] = text.endswith(self.ends_with)
        share = sum(rules.values()) / len(rules) if rules["answer"] else 0.0
        return Score(ten(share), {rule: 10.0 * kept for rule, kept in rules.items()})


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text matches a pattern as a whole, found in time that grows with the length of the text alone.

    Raises:
        ValueError: It is no pattern of RE2, which has neither references to groups nor a look ahead or behind.
    """
    try:
        import re2  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("The option `pattern` of the reward 'format'", "patterns") from None
    options = re2.Options()
    options.dot_nl, options.never_capture, options.log_errors = True, True, False
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"no regular expression of RE2, which does without look-ahead and back-references: {said}") from None
    return lambda text: compiled.fullmatch(text[:LONGEST].encode("utf-8", errors="replace").decode()) is not None


def _same(answer: str, right: str) -> bool:
    """Whether both are the same words, or, where neither holds any (numbers are words, signs are none), the same text."""
    mine, theirs = value_words(answer), value_words(right)
    return mine == theirs if mine or theirs else answer.strip() == right.strip()


def _f1(answer: Counter[str], reference: Counter[str]) -> float:
    total = answer.total() + reference.total()
    return 2 * (answer & reference).total() / total if total else 1.0
