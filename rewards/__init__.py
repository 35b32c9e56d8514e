"""Reward functions from 0 to 10: built-in ones, weighted sums of them, and plug-ins."""

from rxrl.rewards.bleu import bleu
from rxrl.rewards.checking import Check, Report, check_reward
from rxrl.rewards.classic import Classic
from rxrl.rewards.embedding import HashedEmbedding, mean_embeddings, word_ids
from rxrl.rewards.judge import Judge
from rxrl.rewards.limits import TimeLimited
from rxrl.rewards.loading import BUILT_IN, REWARDS, load_reward, read_spec
from rxrl.rewards.retention import Retention, exact, held
from rxrl.rewards.samples import Sample, sample_turn, samples
from rxrl.rewards.shape import form
from rxrl.rewards.similarity import Cosine, Semantic
from rxrl.rewards.simple import Bleu, Exact, Format, Length, Repetition, TokenF1
from rxrl.rewards.trl import FromTRL, from_trl, to_trl, trl_row
from rxrl.rewards.weighted import Weighted

__all__ = [
    "BUILT_IN",
    "REWARDS",
    "Bleu",
    "Check",
    "Classic",
    "Cosine",
    "Exact",
    "Format",
    "FromTRL",
    "HashedEmbedding",
    "Judge",
    "Length",
    "Repetition",
    "Report",
    "Retention",
    "Sample",
    "Semantic",
    "TimeLimited",
    "TokenF1",
    "Weighted",
    "bleu",
    "check_reward",
    "exact",
    "form",
    "from_trl",
    "held",
    "load_reward",
    "mean_embeddings",
    "read_spec",
    "sample_turn",
    "samples",
    "to_trl",
    "trl_row",
    "word_ids",
]
