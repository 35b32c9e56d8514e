"""Conversations in, token ids out: the generated world, rows on disk, importers and the tokenizer."""

from rxrl.data.sources import ConversationSource, RowsSource
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource, generate_conversation

__all__ = ["ConversationSource", "GeneratedSource", "RowsSource", "Tokenizer", "generate_conversation"]
