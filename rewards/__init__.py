"""Reward functions from 0 to 10: built-in ones, weighted sums of them, and plug-ins."""

from rxrl.rewards.bleu import bleu
from rxrl.rewards.classic import Classic
from rxrl.rewards.embedding import HashedEmbedding, mean_embeddings
from rxrl.rewards.loading import ENTRY_POINT_GROUP, load_reward, reward_names
from rxrl.rewards.retention import Retention, exact, held
from rxrl.rewards.shape import form
from rxrl.rewards.simple import Bleu, Exact, Length, Repetition, TokenF1
from rxrl.rewards.weighted import Weighted

__all__ = [
    "ENTRY_POINT_GROUP",
    "Bleu",
    "Classic",
    "Exact",
    "HashedEmbedding",
    "Length",
    "Repetition",
    "Retention",
    "TokenF1",
    "Weighted",
    "bleu",
    "exact",
    "form",
    "held",
    "load_reward",
    "mean_embeddings",
    "reward_names",
]
