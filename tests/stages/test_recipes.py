"""Recipes: what they would take, that all their stages run in order, and that a run goes on where it was cut."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rxrl.errors import ConfigError
from rxrl.pipeline import estimate
from rxrl.pipeline.estimate import estimate_stage, parts_of
from rxrl.pipeline.recipe import RECIPES, RecipeData, RecipeRun, load_recipe
from rxrl.pipeline.stage_job import StageJob
from rxrl.runs.processes import Processes
from rxrl.stages.config import LanguageConfig, SmatConfig
from rxrl.training.callbacks import Callback
from tests.stages.small import taken

TINY = "batch_tokens: 300, validation_rows: 4, validate_every: 2, log_every: 1"
RECIPE = f"""
preset: pico
stages:
  pretrain: {{mode: separate, iterations: 4, {TINY}}}
  sft: {{iterations: 3, {TINY}}}
  memory_attention: {{iterations: 3, steps: 2, {TINY}}}
  smat: {{phases: [{{steps: 2, iterations: 3}}], {TINY}}}
curriculum: CURRICULUM
mrl: {{episodes: 2, max_answer_tokens: 4, max_iterations: 2, evaluation: {{every: 2, conversations: 2}}}}
"""
NAMES = ["1-pretrain", "2-sft", "4-memory-attention", "5-smat", "6-mrl"]


@pytest.fixture
def recipe(tmp_path):
    curriculum = tmp_path / "curriculum.yaml"
    curriculum.write_text("{name: tiny, stages: [{steps: 2, iterations: 2}]}")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("CURRICULUM", str(curriculum)))
    return str(path)


def run_in(out, recipe, overrides=(), data=None, callbacks=()):
    said = []
    named = RecipeData.named(data, None, None, said.append)
    RecipeRun(load_recipe(recipe, overrides), named, out, processes=Processes(), say=said.append, callbacks=callbacks).run()
    return said


def contents(folder, *names):
    return {path.relative_to(folder): path.read_bytes() for name in names for path in sorted(folder.glob(f"*/{name}"))}


class Stop(Exception):
    """Ends a run from outside."""


class StopAt(Callback):
    def __init__(self, phase, step):
        self.at = (phase, step)

    def on_iteration(self, progress):
        if (progress.phase, progress.iteration) == self.at:
            raise Stop


def test_a_recipe_trains_all_stages_in_order_skips_what_is_done_and_goes_on_where_it_was_cut(recipe, tmp_path):
    said = run_in(tmp_path / "whole", recipe)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == NAMES
    assert sum("1 process on " in text for text in said) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*") if path.is_file() and path.name[0] != "."}
    again = run_in(tmp_path / "whole", recipe)
    assert [text for text in again if "done" in text] == [f"{name} is done." for name in NAMES]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for phase, step in (("pretrain", 3), ("smat", 2), ("mrl", 1)):
        with pytest.raises(Stop):
            run_in(tmp_path / "cut", recipe, callbacks=[StopAt(phase, step)])
    run_in(tmp_path / "cut", recipe)
    wanted = contents(tmp_path / "whole", "metrics.jsonl")
    assert len(wanted) == 5
    assert contents(tmp_path / "cut", "metrics.jsonl") == wanted
    ends = [load_file(tmp_path / each / "6-mrl" / "checkpoint" / "model.safetensors") for each in ("whole", "cut")]
    assert all(bool((value == ends[1][name]).all()) for name, value in ends[0].items())
    with pytest.raises(ConfigError, match=r"1-pretrain was trained with other settings \(mask_share\)"):
        run_in(tmp_path / "whole", recipe, ["stages.pretrain.mask_share=0.2"])


def test_plain_texts_are_pre_trained_on_and_the_generated_world_teaches_the_rest(recipe, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("<|endoftext|>".join(f"Story {index}: the owl sat on branch {index * 7} and sang." for index in range(60)))
    said = run_in(tmp_path / "run", recipe, ["mrl=null", "stages.memory_attention=null"], data=[str(texts)])
    assert sum("use the generated world" in text for text in said) == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["1-pretrain", "2-sft", "5-smat"]
    first = json.loads((tmp_path / "run" / "1-pretrain" / "checkpoint" / "config.json").read_text())
    assert json.loads((tmp_path / "run" / "5-smat" / "checkpoint" / "config.json").read_text()) == first


def test_held_out_conversations_without_any_to_train_on_are_refused_before_the_first_stage(recipe, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "The owl sang."}\n{"text": "The fox slept."}\n')
    for data in (None, [str(texts)]):
        named = RecipeData.named(data, None, "talks.jsonl", lambda text: None)
        with pytest.raises(ConfigError, match="--held-out once for each file of --data, in the same order: got 1 for 0"):
            RecipeRun(load_recipe(recipe), named, tmp_path / "run", processes=Processes())


PUBLISHED = {
    "nano": {"pretrain": 2.5e9, "sft": 433e6},
    "micro": {"pretrain (encoder)": 2.5e9, "pretrain (decoder)": 2.5e9, "sft (encoder)": 433e6},
    "mini": {"pretrain (encoder)": 20e9},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_says_what_it_takes(name, monkeypatch):
    for setting, value in {"STEPS": 1, "PASS_TOKENS": 64, "PATIENCE": 0.0}.items():
        monkeypatch.setattr(estimate, setting, value)
    run = RecipeRun(load_recipe(name), RecipeData(), Path(), processes=Processes())
    found = {each.stage: each for each in run.estimates()}
    assert {stage: found[stage].tokens for stage in PUBLISHED.get(name, {})} == PUBLISHED.get(name, {})
    assert {stage.partition(" ")[0] for stage in found} == {"pretrain", "sft", "memory-attention", "smat", "mrl"}
    for each in found.values():
        assert each.timed_steps == 1
        assert (each.flops > 0) == (each.stage != "mrl")
        assert each.seconds == pytest.approx(each.tokens / each.tokens_per_second)
        assert each.memory > 50e6
        assert each.gpu_seconds(50) == pytest.approx(2 * each.gpu_seconds(100))


def test_operations_are_those_of_the_matrices_that_a_token_meets():
    settings = LanguageConfig(mode="separate", encoder_share=0.0, batch_tokens=600, validation_rows=4, optimizer={"name": "adamw"})
    job = StageJob("pretrain", settings).of_full_vocabulary()
    (found,) = estimate_stage(job)
    model, _, task = job.open()
    batch, columns = taken(task, 0), task.rows(0, task.size(0)).ids.shape[1]
    head = model.decoder.head.weight.numel()
    # Keys and values of the one memory slot cost next to nothing.
    reads = sum(p.numel() for layer in model.decoder.layers for p in layer.memory_cross_attention.kv_proj.parameters())
    inactive = sum(layer.ff.inactive_parameters for layer in model.decoder.layers)
    used = sum(p.numel() for p in model.decoder.parameters() if p.ndim > 1) - inactive - reads - head
    attention = 14 * columns * model.config.dim * model.config.layers
    # Padding goes through the layers, but not through the head.
    expected = 6 * head + (6 * used + attention) * batch.positions / batch.tokens
    assert found.flops == pytest.approx(expected, rel=0.1)


def test_parts_of_a_stage_are_timed_apart_and_the_longest_conversations_stand_for_all():
    separate = LanguageConfig(mode="separate", encoder_share=0.25)
    assert [(name, share, part.encoder_share) for name, share, part in parts_of("sft", separate)] == [
        ("sft (encoder)", 0.25, 1.0),
        ("sft (decoder)", 0.75, 0.0),
    ]
    ((_, _, smat),) = parts_of("smat", SmatConfig(unfreeze={"encoder": 0.5}))
    assert (smat.unfreeze, [phase.steps for phase in smat.phases]) == ({}, [4])


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"recipe 'nanno'.*nano"):
        load_recipe("nanno")
