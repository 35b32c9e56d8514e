"""Token stores: a source tokenized once, mapped into memory, read in a seeded order that is computed and never held.

    build(split, folder, tokenizer, Options())                 a source (texts or conversations) becomes a store
    TextStore(folder).packed(length, seed, "train")            rows of packed texts: `.batch(position, rows, rank, world_size)`
    ConversationStore(folder).source(seed, "train")            a source of conversations: `.take(...)`, and `.episodes(...)` as token ids

A batch is a function of seed and position, so a run goes on where it was cut by its position alone, and two processes share out what
one would have.
"""

from rxrl.data.stores.building import build, fingerprint, kind_of
from rxrl.data.stores.conversations import ConversationStore, StoredConversations
from rxrl.data.stores.manifest import Manifest, is_store, read_manifest
from rxrl.data.stores.opening import Reporter, Store, check_stores_apart, needs_store, open_store, sampled_tokenizer, stores_of
from rxrl.data.stores.options import Options
from rxrl.data.stores.texts import MixedTexts, PackedBatch, PackedRows, PackedTexts, TextStore

__all__ = [
    "ConversationStore",
    "Manifest",
    "MixedTexts",
    "Options",
    "PackedBatch",
    "PackedRows",
    "PackedTexts",
    "Reporter",
    "Store",
    "StoredConversations",
    "TextStore",
    "build",
    "check_stores_apart",
    "fingerprint",
    "is_store",
    "kind_of",
    "needs_store",
    "open_store",
    "read_manifest",
    "sampled_tokenizer",
    "stores_of",
]
