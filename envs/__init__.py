"""Gymnasium environments for conversations whose hidden state is a memory.

`import rxrl` registers `rxrl/Conversation-v0` and `rxrl/ConversationTokens-v0`; a factory above this package resolves names and paths.
"""

from rxrl.envs.backends import NoMemory, SwappedMemory, TranscriptMemory, Transcripts
from rxrl.envs.batch import token_batch
from rxrl.envs.checks import check_references, check_scores, has_references, is_scenario, scenario_values
from rxrl.envs.conversation import ConversationEnv, ConversationTokensEnv
from rxrl.envs.episode import Continuation
from rxrl.envs.live import Live, unwrap
from rxrl.envs.registry import ENVIRONMENTS, MEMORIES
from rxrl.envs.spaces import UnicodeText
from rxrl.envs.vector import ConversationVectorEnv

__all__ = [
    "ENVIRONMENTS",
    "MEMORIES",
    "Continuation",
    "ConversationEnv",
    "ConversationTokensEnv",
    "ConversationVectorEnv",
    "Live",
    "NoMemory",
    "SwappedMemory",
    "TranscriptMemory",
    "Transcripts",
    "UnicodeText",
    "check_references",
    "check_scores",
    "has_references",
    "is_scenario",
    "scenario_values",
    "token_batch",
    "unwrap",
]
