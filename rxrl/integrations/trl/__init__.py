"""TRL's `GRPOTrainer` on conversations and scenarios: a rollout of several turns, or an environment whose user is answered with a tool.

    games = rxrl.envs.scenarios.load("preferences").take(steps=4, count=500)
    GRPOTrainer(..., train_dataset=prompts_of(games), rollout_func=conversation_rollout(games), reward_funcs=dialogue_mean)

Nothing here imports TRL before a trainer calls it. Rewards of single answers are bridged by `rxrl.rewards.to_trl`.
"""

from rxrl.integrations.trl.environment import ConversationEnvironment, conversation_environment
from rxrl.integrations.trl.generation import generate_answers
from rxrl.integrations.trl.prompts import prompts_of
from rxrl.integrations.trl.rewards import dialogue_mean, dialogue_sum, dialogue_turn
from rxrl.integrations.trl.rollout import ConversationRollout, conversation_rollout

__all__ = [
    "ConversationEnvironment",
    "ConversationRollout",
    "conversation_environment",
    "conversation_rollout",
    "dialogue_mean",
    "dialogue_sum",
    "dialogue_turn",
    "generate_answers",
    "prompts_of",
]
