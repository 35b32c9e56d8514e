"""Named settings of the main job: those of scenarios, and a second job laid over one of them."""

import json

import pytest

from rxrl.config import load_config
from rxrl.envs.scenarios import SCENARIOS
from rxrl.errors import ConfigError, RxrlError
from rxrl.pipeline import BUDGETS, Pipeline, PipelineConfig, load_budget


@pytest.mark.parametrize("name", sorted(name for name in SCENARIOS.built_in if not SCENARIOS.find(name).asks_outside))
def test_every_scenario_has_a_budget_with_its_own_discount(name):
    config, game = load_budget(f"scenario:{name}"), SCENARIOS.find(name)
    assert config.data.train == f"scenario:{name}"
    assert config.mrl.reward == "outcome"
    assert (config.curriculum, config.mrl.critic) == (game.curriculum, game.critic)
    assert config.mrl.algorithm.advantage_form == ("gae" if game.gamma else "reward-value")
    if game.gamma:
        assert (config.mrl.algorithm.gamma, config.mrl.algorithm.gae_lambda) == (game.gamma, game.gae_lambda)
    assert load_budget(f"scenario:{name}", ["mrl.algorithm.gamma=0.5", "data.level=2"]).mrl.algorithm.gamma == 0.5


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_settings_of_a_budget_are_saved_in_full(name):
    config = load_budget(name)
    assert PipelineConfig.model_validate(config.saved()) == config


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_the_level_of_a_budget_is_that_of_its_own_world(name):
    assert load_budget(name).data.level == 1
    assert load_budget(name, ["data.level=2"]).data.level == 2
    assert load_budget(name, ["data.train='rows.jsonl'", "data.held_out='test.jsonl'"]).data.level is None
    assert load_budget(name, ["data.train=world", "data.level=3"]).data.level == 3


def test_the_hard_budget_is_the_default_in_a_larger_world():
    changes = [
        "data.level=2",
        "mrl.max_answer_tokens=24",
        "stages.reading.iterations=5000",
        "interactive=null",
    ]
    assert load_budget("hard") == load_budget("default", changes)
    assert load_budget("hard", ["data.level=3"]).data.level == 3


def test_the_default_ends_in_a_scenario():
    second = load_budget("default").interactive
    assert second == load_budget("scenario:preferences")


def test_a_second_job_is_laid_over_a_budget(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("interactive:\n  budget: scenario:guess\n  mrl: {episodes: 8, algorithm: {gamma: 0.7}}\n")
    config, whole = load_config(path, PipelineConfig).interactive, load_budget("scenario:guess")
    assert config is not None
    assert (config.mrl.episodes, config.mrl.algorithm.gamma) == (8, 0.7)
    assert config.mrl.algorithm.entropy == whole.mrl.algorithm.entropy
    assert config.stages == whole.stages


@pytest.mark.parametrize(
    ("name", "message"),
    [("defualt", "did you mean 'default'"), ("scenario:gess", "did you mean 'guess'"), ("scenario", "scenario:NAME")],
)
def test_budgets_that_do_not_exist_are_refused(name, message, tmp_path):
    with pytest.raises(ConfigError) as refused:
        load_budget(name)
    assert message in str(refused.value).lower() or message in str(refused.value)
    path = tmp_path / "job.yaml"
    path.write_text(f"interactive: {{budget: {name!r}}}\n")
    with pytest.raises(ConfigError, match="interactive"):
        load_config(path, PipelineConfig)


@pytest.mark.parametrize("setting", ["mrl.reward=nope", "interactive.mrl.reward=nope", "mrl.env=nope", "interactive.mrl.env=nope"])
def test_a_name_that_does_not_exist_is_refused_before_anything_is_trained(setting, tmp_path):
    job = Pipeline(load_budget("tiny", [setting]), tmp_path / "run")
    with pytest.raises(RxrlError, match=r"Unknown (reward|environment) 'nope'"):
        job.run()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_two_jobs_do_not_play_the_same_scenario():
    with pytest.raises(ConfigError, match="the first job plays scenario:preferences as well: set interactive to null"):
        load_budget("default", ["data.train=scenario:preferences"])
    assert load_budget("default", ["data.train=scenario:preferences", "interactive=null"]).data.reacts
    assert load_budget("default", ["data.train=scenario:guess"]).interactive is not None


def test_a_budget_for_given_data_is_cut_down_to_its_conversations(tmp_path):
    """And one that is not made for it refuses them, with the name of the setting."""
    for name, pet in (("rows", "cat"), ("test", "dog")):
        interaction = {"query": f"Ann has a {pet}.", "answer": "Okay.", "facts": [{"key": "ann.pet", "value": pet}]}
        asks = [{"query": "What has Ann?", "answer": pet, "asks": ["ann.pet"]}] * 5
        rows = [json.dumps({"id": f"{name}-{row}", **interaction, "interactions": asks}) for row in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    given = [f"data.train={str(tmp_path / 'rows.jsonl')!r}", f"data.held_out={str(tmp_path / 'test.jsonl')!r}"]
    said: list[str] = []
    job = Pipeline(load_budget("babi", [*given, "stages.memory_attention.steps=6"]), tmp_path / "run", say=said.append)
    job.prepare()
    assert job.stages.memory_attention is not None
    assert job.stages.memory_attention.steps == 5
    assert [phase.steps for phase in job.stages.smat.phases] == [1, 2, 4, 5]
    assert [(stage.name, stage.steps) for stage in job.curriculum.stages] == [("steps-4", 4), ("steps-5", 5)]
    assert said == job.notes == ["The data cannot train and validate 8 turns: phases and stages that ask for more than 5 have 5."]
    with pytest.raises(RxrlError, match=r"at least 8 turns are needed, but the longest of .* has 5"):
        Pipeline(load_budget("babi", [*given, "shorten=false"]), tmp_path / "other").prepare()


def test_what_the_data_cannot_feed_is_left_out_with_a_word_or_refused_before_anything_is_trained(tmp_path):
    interaction = {"query": "Ann has a cat.", "answer": "Okay.", "interactions": [{"query": "What has Ann?", "answer": "A cat."}] * 16}
    for name in ("rows", "test"):
        rows = [json.dumps({"id": f"{name}-{row}", **interaction, "query": f"Ann has a cat, says {name}."}) for row in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    given = [f"data.train={str(tmp_path / 'rows.jsonl')!r}", f"data.held_out={str(tmp_path / 'test.jsonl')!r}", "interactive=null"]
    said: list[str] = []
    job = Pipeline(load_budget("default", given), tmp_path / "run", say=said.append)
    job.prepare()
    assert set(job.mrl.signals) == {"reward", "reference"}
    assert [text.split(":")[0] for text in said] == ["The signal 'probes' is left out", "The signal 'keep' is left out"]
    assert said == job.notes
    with pytest.raises(ConfigError, match="nothing would be learned"):
        Pipeline(load_budget("default", [*given, "mrl.signals={keep: {optional: true}, reward: 0}"]), tmp_path / "none").prepare()
    with pytest.raises(ConfigError, match="signal 'keep' needs facts"):
        Pipeline(load_budget("default", [*given, "mrl.signals.keep.optional=false"]), tmp_path / "other").prepare()
    assert set(Pipeline(load_budget("default"), tmp_path / "world").mrl.signals) == {"reward", "reference", "probes", "keep"}
