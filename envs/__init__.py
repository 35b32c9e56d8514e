"""Gymnasium environments for conversations whose hidden state is a memory.

`import rxrl` registers `rxrl/Conversation-v0`; a factory above this package resolves names and paths.
"""

from rxrl.envs.backends import Live, NoMemory, TranscriptMemory, Transcripts
from rxrl.envs.batch import token_batch
from rxrl.envs.conversation import ConversationEnv, ConversationTokensEnv, UnicodeText
from rxrl.envs.vector import ConversationVectorEnv

__all__ = [
    "ConversationEnv",
    "ConversationTokensEnv",
    "ConversationVectorEnv",
    "Live",
    "NoMemory",
    "TranscriptMemory",
    "Transcripts",
    "UnicodeText",
    "token_batch",
]
