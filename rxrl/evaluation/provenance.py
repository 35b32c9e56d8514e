"""Where a report comes from: command, versions, machine, and where the time went."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from rxrl.evaluation.charts import number
from rxrl.secrets import redacted
from rxrl.terminal import as_named

PARTS = {"collect": "playing episodes", "estimate": "old policy, reference and critic", "update": "updates", "evaluate": "evaluation"}
"""Parts of an iteration of MRL, as timings.jsonl names them and in words."""


def made_with() -> dict[str, Any]:
    """Command, versions and machine of this process, for a report (its `made_with`)."""
    return {
        "command": redacted(as_named(shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))),
        "rxrl": version("rxrl"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    }


def times_sentence(timings: Iterable[Mapping[str, Any]]) -> str:
    """Where the time of MRL went; "" where nothing was timed.

    Args:
        timings: Rows of timings.jsonl.
    """
    rows = [row for row in timings if row.get("phase") == "mrl"]
    seconds = {words: sum(float(row.get(part) or 0) for row in rows) for part, words in PARTS.items()}
    whole = sum(seconds.values())
    if not whole:
        return ""
    listed = ", ".join(f"{words} {number(100 * each / whole, 0)} %" for words, each in seconds.items() if each)
    return f"Of {number(whole, 0)} seconds of MRL: {listed}."


def data_rows(origins: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the page says of the data: use, name, what else decides which they are, and the hash.

    Args:
        origins: As `rxrl.data.origins.Origin.saved` gives them.
    """
    return [
        {
            "use": each["use"],
            "name": each["name"],
            "settings": ", ".join(f"{name} {value}" for name, value in each["settings"].items()),
            "sha256": each["sha256"] or "",
            "hashed": each["hashed"],
        }
        for each in origins
    ]
