"""Suites: benchmarks in one command, `rxrl evaluate WHAT --suite NAME`.

Every group of a suite is scored by itself, between what the best constant answers earn and the reference answers, beside what
is published of other systems.
"""

from rxrl.evaluation.suites.base import Group, Published, Setting, Suite
from rxrl.evaluation.suites.registry import SUITES
from rxrl.evaluation.suites.scoring import played_of, suite_summary

__all__ = ["SUITES", "Group", "Published", "Setting", "Suite", "played_of", "suite_summary"]
