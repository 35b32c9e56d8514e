"""Secrets stay out of text: keys and passwords never reach a message, a saved setting, a tracker or a report.

Every `RxrlError` passes its message through `redacted`; whatever writes settings passes them through `redacted_data`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
"""What stands in place of a secret."""
_SHORTEST, _SHORTEST_VARIABLE = 4, 8
"""Shorter values are no secrets: hiding them would make holes in ordinary words."""
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS)\Z", re.IGNORECASE)
_SECRET_SETTING = re.compile(r"(\A|[_-])((api|access|secret)[_-]?key|secret|token|password|passwd|authorization)\Z", re.IGNORECASE)
# A password may hold what should have been written as %2F. Its length is bounded, so that no text makes the search quadratic.
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/?#]*|[^\s/?#:@]{1,256}:(?!\d*(?:[/?#\s]|\Z))\S{0,256})@")


def redacted(text: str, *secrets: str | None) -> str:
    """The text without secrets.

    Args:
        text: Any text.
        secrets: Further secrets; None and values of less than four characters are passed over.

    Returns:
        The text with `***` in place of these secrets, of the values of environment variables that are named like one
        (`..._KEY`, `..._TOKEN`, `..._PASSWORD`, `..._SECRET`), and of `user:password` in addresses.
    """
    known = {secret for secret in secrets if secret and len(secret) >= _SHORTEST} | _of_environment()
    # The longest first: one secret may stand within another.
    for spelt in sorted({each for secret in known for each in _spellings(secret)}, key=len, reverse=True):
        text = text.replace(spelt, HIDDEN)
    return _USER_INFO.sub(f"{HIDDEN}@", text) if "://" in text else text


def redacted_data(value: Any) -> Any:
    """Plain data (mappings, lists, text, numbers) without secrets.

    Args:
        value: Settings as they are to be saved or shown.

    Returns:
        A copy whose texts are `redacted`; of settings that are named like a secret (`api_key`, `token`, `password`) only `***` is left.
    """
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(key, each) else redacted_data(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_data(each) for each in value]
    return value


def has_user_info(address: str) -> bool:
    """Whether an address holds a user's name or password in front of its host."""
    return _USER_INFO.search(address) is not None


def _is_secret(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, str) and value != "" and _SECRET_SETTING.search(key) is not None


def _of_environment() -> set[str]:
    """Values of environment variables that are named like a secret; a path to a file with a key is none."""
    found = (value.strip() for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return {value for value in found if len(value) >= _SHORTEST_VARIABLE and not value.startswith(("/", "~", "."))}


def _spellings(secret: str) -> set[str]:
    """A secret as it stands in text, in JSON and in an address."""
    return {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}
