"""Algorithms by name, and settings that make no sense together."""

import pytest

from rxrl import registry
from rxrl.algorithms import ALGORITHMS, BUILT_IN, Algorithm, AlgorithmConfig
from rxrl.config import parse_config
from rxrl.errors import ConfigError


class EntryPoint:
    """What `importlib.metadata` knows of an installed package's plug-in."""

    def __init__(self, name, target):
        self.name, self.value, self.target = name, f"package:{name}", target

    def load(self):
        if isinstance(self.target, Exception):
            raise self.target
        return self.target


@pytest.fixture
def installed(monkeypatch):
    """Makes algorithms look as if a package had brought them."""

    def install(**targets):
        found = [EntryPoint(name, target) for name, target in targets.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "rxrl.algorithms" else [])

    return install


def test_an_installed_algorithm_is_found_by_name(installed):
    mine = Algorithm("mine", BUILT_IN["a2c"].loss, advantage="return", reuses_rollouts=False)
    installed(mine=mine)
    assert ALGORITHMS.find("mine") is mine
    assert "mine" in ALGORITHMS.names()
    config = AlgorithmConfig(name="mine", options={"anything": 3})
    assert config.algorithm is mine
    assert config.advantage_form == "return"
    assert not config.needs_critic
    with pytest.raises(ConfigError, match="epochs must be 1"):
        parse_config({"name": "mine", "epochs": 2}, AlgorithmConfig)


def test_built_in_names_cannot_be_taken_over(installed):
    installed(ppo=Algorithm("ppo", BUILT_IN["a2c"].loss))
    assert ALGORITHMS.find("ppo") is BUILT_IN["ppo"]
    assert ALGORITHMS.names().count("ppo") == 1


@pytest.mark.parametrize(
    ("target", "reason"), [(ImportError("no torch"), "ImportError: no torch"), (3, "must be an rxrl.algorithms.Algorithm")]
)
def test_a_broken_plug_in_says_what_is_wrong(installed, target, reason):
    installed(broken=target)
    with pytest.raises(ConfigError, match=reason):
        ALGORITHMS.find("broken")


def test_a_misspelt_algorithm_is_refused_with_a_guess():
    with pytest.raises(ConfigError, match="Did you mean 'grpo'"):
        parse_config({"name": "grop"}, AlgorithmConfig)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"experimental": {"kl_estimator": "k1"}}, "k1 in the loss has no gradient"),
        ({"name": "a2c", "epochs": 2}, "epochs must be 1"),
        ({"name": "rloo", "group_size": 1}, "group_size must be at least 2"),
        ({"advantage": "group"}, "group_size must be at least 2"),
        ({"experimental": {"adaptive_kl": 0.1}, "kl": 0}, "kl must be above 0"),
        ({"bptt_turns": 2, "experimental": {"detach_every": 2}}, "give one of them"),
        ({"options": {"c": 1}}, "no options of its own"),
        ({"clip_low": 1.5}, "less than or equal to 1"),
        ({"experimental": {"dual_clip": 0.5}}, "greater than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_config(settings, AlgorithmConfig)


def test_k1_is_allowed_where_it_has_an_effect():
    assert AlgorithmConfig(experimental={"kl_estimator": "k1"}, kl_in="reward").kl_in == "reward"
    assert AlgorithmConfig(experimental={"kl_estimator": "k1"}, kl=0).kl == 0
