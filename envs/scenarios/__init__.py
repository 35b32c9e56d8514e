"""Conversations in which the user reacts: a suite of scenarios, their bounds, and what a scenario of one's own is made of."""

from rxrl.envs.scenarios.bounds import Bounds, bounds, play_text, text_turn
from rxrl.envs.scenarios.checking import ScenarioReport, check_scenario
from rxrl.envs.scenarios.game import LEVELS, SPLITS, Game, GameDialogue, Player, Said, exchanges, named_once, words_of
from rxrl.envs.scenarios.registry import SCENARIOS, load, read_spec
from rxrl.envs.scenarios.source import ScenarioSource, SupervisedSource, texts_of

__all__ = [
    "LEVELS",
    "SCENARIOS",
    "SPLITS",
    "Bounds",
    "Game",
    "GameDialogue",
    "Player",
    "Said",
    "ScenarioReport",
    "ScenarioSource",
    "SupervisedSource",
    "bounds",
    "check_scenario",
    "exchanges",
    "load",
    "named_once",
    "play_text",
    "read_spec",
    "text_turn",
    "texts_of",
    "words_of",
]
