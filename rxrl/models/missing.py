"""What stands where a model has no such part, because it was imported from separate parts."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from rxrl.errors import ModelError


class MissingPart(nn.Module):
    """A part without weights, whose every use is refused with the reason."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def forward(self, *arguments: Any, **options: Any) -> NoReturn:
        """Refuses."""
        self._refuse()

    def __getattr__(self, name: str) -> NoReturn:
        # Copying and printing ask for optional special methods.
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    def _refuse(self) -> NoReturn:
        part = {"mlm_head": "MLM head"}.get(self._part, self._part.replace("_", " "))
        raise ModelError(
            f"This model has no {part}: it was imported without one (import it together with one, or with fresh weights for it, --fresh, "
            "to be trained), or it is a baseline that re-reads the conversation or keeps it in memory tokens (`rxrl presets`)."
        )
