from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

import rxrl
from rxrl.config import BaseConfig, WrongValueError, dump_config, field_help, load_config, parse_config
from rxrl.errors import ConfigError


class Optimizer(BaseConfig):
    lr: float = Field(1e-3, gt=0, description="Learning rate.")
    steps: int = 10


class Run(BaseConfig):
    name: str
    """Name of the run."""
    optimizer: Optimizer = Optimizer()
    several: tuple[Optimizer | int, ...] = ()
    mix: str | dict[str, float] = "one"
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> Run:
        if self.low > self.high:
            raise WrongValueError("low is above high; lower it", "low")
        return self


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("name: a\noptimizer:\n  steps: 3\n  lrr: 1", 4, "Did you mean 'lr'?"),
        ("nmae: a", 1, "Did you mean 'name'?"),
        ("name: a\n\noptimizer:\n  steps: many", 4, "optimizer.steps: expected a valid integer, got 'many'"),
        ("name: a\nseveral:\n  - 1\n  - steps: 1\n    lrr: 2", 5, "several.1: Unknown key 'lrr'"),
        ("name: a\noptimizer: 3", 2, "expected a mapping, got 3"),
        ("name: a\nmix: {one: x}", 2, "mix.one: expected a valid number, got 'x'"),
        ("name: a\nhigh: 2\nlow: 3", 3, "low is above high; lower it"),
        ("name: a\noptimizer:\n  lr: -1", 3, "greater than 0, got -1"),
        ("name: a\noptimizer:\n  lr: .nan", 3, "finite number"),
        ("name: a\nname: b", 2, "'name' is given twice"),
        ("name: a\nmix: [", 2, "not valid YAML"),
        ("- a", 1, "expected a mapping of settings"),
        ("name: a\n3: 4", 2, "keys are text"),
        ("name: a\noptimizer:", 2, "got nothing (null)"),
        ("name: a\nlow: '0'", 2, "expected a valid integer, got '0'"),
        ("name: a\nlow: 0.0", 2, "expected a valid integer, got 0.0"),
        ("name: a\nlow: false", 2, "expected a valid integer, got False"),
        ("name: a\noptimizer:\n  lr: true", 3, "expected a valid number, got True"),
        ("name: a\nmix: {one: '1'}", 2, "mix.one: expected a valid number, got '1'"),
        ("name: 3", 1, "expected text, got 3"),
    ],
)
def test_error_names_file_line_and_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, Run)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert reason in message
    assert "\n" not in message


def test_missing_key_and_missing_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'name' is missing"):
        load_config(None, Run)
    with pytest.raises(ConfigError, match="There is no file"):
        load_config(tmp_path / "absent.yaml", Run)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.yaml", Run)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, Run)


def test_overrides_win_over_the_file_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\noptimizer: {steps: 3}\nseveral: [{steps: 1}, 2]")
    run = load_config(path, Run, ["optimizer.lr=1e-4", "several.0.steps=5", "name=b", "name=c d", "mix={x: 1, y: 2}"])
    assert run == Run(name="c d", optimizer=Optimizer(lr=1e-4, steps=3), several=(Optimizer(steps=5), 2), mix={"x": 1.0, "y": 2.0})


def test_an_override_changes_one_of_the_places_that_share_an_alias(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\noptimizer: &shared {steps: 3}\nseveral: [*shared, 2]")
    run = load_config(path, Run, ["several.0.steps=5"])
    assert (run.optimizer, run.several) == (Optimizer(steps=3), (Optimizer(steps=5), 2))


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optimizer.lrr=1", "Did you mean 'lr'?"),
        ("optimizer.lr", "expected `key=value`"),
        ("=1", "expected `key=value`"),
        ("a..b=1", "expected `key=value`"),
        ("name.x=1", "has no key 'x'"),
        ("several.7=1", "no index"),
        ("several.x=1", "no index"),
        ("optimizer.steps=[", "not a YAML value"),
        ("optimizer.steps=many", "expected a valid integer"),
    ],
)
def test_wrong_override_is_quoted(override: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"name": "a", "several": [1]}, Run, [override])
    assert str(caught.value).startswith(f"Override {override!r}: ")
    assert reason in str(caught.value)


def test_parse_leaves_the_callers_data_alone() -> None:
    data = {"name": "a", "optimizer": {"steps": 1}}
    assert parse_config(data, Run, ["optimizer.steps=2"]).optimizer.steps == 2
    assert data == {"name": "a", "optimizer": {"steps": 1}}


def test_words_stay_words_and_numbers_are_numbers(tmp_path: Path) -> None:
    run = load_config(written(tmp_path, "name: no\nmix: on\noptimizer: {lr: 1e-4, steps: 3}"), Run)
    assert (run.name, run.mix, run.optimizer.lr) == ("no", "on", 1e-4)


def test_lists_are_tuples_and_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "name: a\nseveral: [1, {steps: 2}]"), Run).several == (1, Optimizer(steps=2))
    assert type(Run(name="a", low=np.int64(-3)).low) is int
    assert type(Optimizer(lr=np.float32(0.5)).lr) is float


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Run(name="a").name = "b"  # type: ignore[misc]


def test_descriptions_are_the_help() -> None:
    assert field_help(Run, "optimizer.lr") == "Learning rate."
    assert field_help(Run, "name") == "Name of the run."
    with pytest.raises(ConfigError, match="Did you mean 'optimizer'"):
        field_help(Run, "optimiser")


numbers = st.floats(min_value=1e-12, max_value=1e12)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)


@given(
    st.builds(
        Run,
        name=texts,
        optimizer=st.builds(Optimizer, lr=numbers, steps=st.integers(-5, 5)),
        several=st.lists(st.integers(0, 9) | st.builds(Optimizer, lr=numbers), max_size=3).map(tuple),
        mix=texts | st.dictionaries(texts, numbers, max_size=3),
    )
)
def test_dump_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    text = dump_config(run, path)
    assert path.read_text(encoding="utf-8") == text
    assert load_config(path, Run) == run


class Judge(BaseConfig):
    address: str = ""
    settings: dict[str, str] = Field(default_factory=dict)


def test_what_is_saved_holds_no_key_and_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-from-the-environment")
    judge = Judge(address="http://user:URLSECRET@host/v1", settings={"api_key": "GIVEN", "note": "uses sk-from-the-environment"})
    text = dump_config(judge, tmp_path / "config.yaml")
    for secret in ("URLSECRET", "GIVEN", "sk-from-the-environment"):
        assert secret not in text + str(judge.saved()) + (tmp_path / "config.yaml").read_text()
    assert load_config(tmp_path / "config.yaml", Judge).saved() == judge.saved()


def test_nothing_but_the_configuration_itself_decides_what_is_saved() -> None:
    """`model_dump(mode="json")` past `saved` would write secrets into files again."""
    package = Path(rxrl.__file__).parent
    past = [path.name for path in package.rglob("*.py") if 'model_dump(mode="json")' in path.read_text(encoding="utf-8")]
    assert past == ["config.py"]
