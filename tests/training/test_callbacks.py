"""Callbacks hear of everything, in order, with plain values."""

from rxrl.training.callbacks import Callback
from tests.training.resume_worker import STAGES, trainer_in


class Everything(Callback):
    def __init__(self):
        self.heard = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda *arguments: self.heard.append((name, *arguments))


def plain(value):
    if isinstance(value, dict):
        return all(plain(inner) for inner in value.values())
    return isinstance(value, list) or type(value) in {int, float, str}


def test_every_moment_is_told_in_order(tmp_path):
    callback = Everything()
    trainer = trainer_in(tmp_path, callbacks=[callback])
    trainer.train()
    names = [name for name, *_ in callback.heard]
    assert (names[0], names[-1]) == ("on_start", "on_end")
    assert {*names, "on_alarm"} == {name for name in dir(Callback) if name.startswith("on_")}
    names = [name for name in names if name != "on_alarm"]
    iteration = ["on_rollout", "on_update", "on_iteration"]
    assert [name for name in names if name in iteration] == iteration * 7
    # Evaluations stand between an update and the iteration's end; every second iteration, and at the end of a stage.
    assert names[1:9] == [*iteration, "on_rollout", "on_update", "on_evaluation", "on_iteration", "on_checkpoint"]
    rows = [arguments[0] for name, *arguments in callback.heard if name == "on_stage_end"]
    assert [row["steps"] for row in rows] == [stage["steps"] for stage in STAGES]
    assert rows == trainer.state.stages
    for progress in (arguments[0] for name, *arguments in callback.heard if name == "on_iteration"):
        assert plain(progress.metrics), progress.metrics
        assert progress.total == 7
    for metrics in (arguments[0] for name, *arguments in callback.heard if name == "on_update"):
        assert plain(metrics), metrics
    rollouts = [arguments[0] for name, *arguments in callback.heard if name == "on_rollout"]
    assert all(turn.answer is not None for rollout in rollouts for turn in rollout.scored_turns)


def test_a_stage_that_is_cut_by_max_iterations_leaves_its_row_and_an_evaluation(tmp_path):
    trainer = trainer_in(tmp_path, max_iterations=4, evaluation={"every": 3, "conversations": 3})
    trainer.train()
    first, second = trainer.state.stages
    assert (first["iterations"], second["iterations"]) == (3, 1)
    assert "4 iterations" in second["ended"]
    assert '"retention"' in (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    again = trainer_in(tmp_path, max_iterations=4, evaluation={"every": 3, "conversations": 3})
    assert again.resume()
    again.train()
    assert again.state.stages == trainer.state.stages
