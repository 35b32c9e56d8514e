"""Importers: public data sets and plain text to conversations and texts in the form of rxrl."""

from rxrl.data.importers.babi import import_babi
from rxrl.data.importers.chat import import_chat
from rxrl.data.importers.common import ImportResult
from rxrl.data.importers.fairytale import import_fairytaleqa
from rxrl.data.importers.passages import import_passages
from rxrl.data.importers.published import import_published
from rxrl.data.importers.registry import IMPORTERS, import_with
from rxrl.data.importers.sgd import import_sgd
from rxrl.data.importers.text import import_text

__all__ = [
    "IMPORTERS",
    "ImportResult",
    "import_babi",
    "import_chat",
    "import_fairytaleqa",
    "import_passages",
    "import_published",
    "import_sgd",
    "import_text",
    "import_with",
]
