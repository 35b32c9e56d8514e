"""The frame of the benchmarks: what it discards, how bars are scaled, how files are compared. Speeds are no matter of tests."""

from __future__ import annotations

import io
import itertools
import json
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from rxrl.models import PRESETS, ReactiveTransformer
from tests import skips
from tests.benchmarks import __main__ as command
from tests.benchmarks.bounds import decode_work
from tests.benchmarks.measure import REFERENCE, Bench, Measurement, Probe, Row, Usage, measure, peak_growth
from tests.benchmarks.tables import ratio, results

CPUS = 2


def clocks(taken: Sequence[float], seconds: Sequence[float] | None = None) -> Callable[[], Usage]:
    """Clocks under which repetition i takes `seconds[i]` on one CPU, while others take the share `taken[i]` of all CPUs."""
    spans = itertools.chain([(1.0, 0.0)], zip(seconds or [1.0] * len(taken), taken, strict=True))

    def ticks() -> Iterator[Usage]:
        wall = own = every = 0.0
        for span, share in spans:
            yield Usage(wall, own, every)
            wall, own, every = wall + span, own + span, every + span + share * span * CPUS
            yield Usage(wall, own, every)

    readings = ticks()
    return lambda: next(readings)


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: CPUS)


def test_disturbed_repetitions_are_discarded_and_counted() -> None:
    found = measure(lambda: None, repeats=3, usage=clocks([0.02, 0.5, 0.04, 0.06, 0.01], [2.0, 9.0, 4.0, 9.0, 3.0]))
    assert found == Measurement(3.0, 3.0, kept=3, discarded=2, others=pytest.approx(0.04), disturbed=False)


def test_where_all_are_disturbed_the_least_disturbed_is_kept_and_flagged() -> None:
    found = measure(lambda: None, repeats=2, usage=clocks([0.5, 0.3, 0.2, 0.4, 0.5, 0.6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert found == Measurement(3.0, 3.0, kept=1, discarded=5, others=pytest.approx(0.2), disturbed=True)


def test_a_system_that_does_not_tell_discards_nothing() -> None:
    times = itertools.count()
    found = measure(lambda: None, repeats=3, usage=lambda: Usage(float(next(times)), 0.0, None))
    assert (found.kept, found.discarded, found.others, found.disturbed) == (3, 0, None, False)


def test_short_work_is_repeated_until_the_clock_can_see_it() -> None:
    calls = itertools.count()
    times = iter([0.0, 0.01, 1.0, 1.5])
    found = measure(lambda: next(calls), repeats=1, at_least=0.5, usage=lambda: Usage(next(times), 0.0, None))
    assert next(calls) == 2 + 50
    assert found.seconds == pytest.approx(0.5 / 50)


def test_short_repetitions_are_more_in_number_where_there_is_a_time_for_all_of_them() -> None:
    ticks = itertools.count(step=0.25)
    found = measure(lambda: None, repeats=3, at_least=0.0, usage=lambda: Usage(next(ticks), 0.0, None), in_all=2.0)
    assert found.kept == 8


def test_rows_with_a_bar_are_measured_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def measured(*given: object, in_all: float, **options: object) -> Measurement:
        asked.append(in_all)
        return Measurement(1.0, 1.0, 1, 0, None, False)

    monkeypatch.setattr("tests.benchmarks.measure.measure", measured)
    for bench in (Bench(2, REFERENCE), Bench(2, REFERENCE, quick=True)):
        bench.time("-", "with", lambda: None, bar=1.0)
        bench.rate("-", "without", lambda: None, 1.0)
    assert asked == [10.0, 0.0, 0.0, 0.0]


def test_a_bar_is_scaled_by_what_the_machine_is_between_the_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    # What runs beside this test must not discard a repetition: it would be measured, and the machine probed, once more.
    monkeypatch.setattr("tests.benchmarks.measure._busy_seconds", lambda: None)
    speeds = itertools.cycle([1.0, 2.0, 8.0])
    drifting = Bench(1, REFERENCE, repeats=3, at_least=0.0, prober=lambda: Probe(REFERENCE.gflops * next(speeds), REFERENCE.copy))
    row = drifting.time("-", "time", lambda: None, bar=100.0)
    assert row.probe == Probe(2 * REFERENCE.gflops, REFERENCE.copy)
    assert row.bar == pytest.approx(50.0)


def test_bars_are_scaled_by_the_faster_side_of_the_probe() -> None:
    slow = Bench(1, Probe(REFERENCE.gflops / 2, REFERENCE.copy / 4), repeats=1, at_least=0.0)
    assert slow.rate("-", "rate", lambda: None, 10, bar=100.0).bar == pytest.approx(50.0)
    assert slow.time("-", "time", lambda: None, bar=100.0).bar == pytest.approx(200.0)
    assert slow.value("-", "value", 1.3, "tokens", bar=1.2).bar == 1.2
    assert slow.value("-", "value", 1.3, "tokens", bar=1.2).reached is False
    assert slow.value("-", "value", 1.1, "tokens", bar=1.2).reached is True
    assert Row("-", "more", 3.0, "tokens/s", True, 1, bar=2.0).reached is True


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason=f"{skips.MACHINE}: Linux")
def test_the_peak_of_memory_is_that_of_the_work_alone() -> None:
    held = bytearray(b"x" * 60_000_000)
    grown = peak_growth(lambda: len(bytearray(b"y" * 40_000_000)))
    assert len(held) == 60_000_000
    assert grown is not None
    assert 35e6 < grown < 100e6


def test_a_decode_step_is_bound_by_the_weights_it_touches() -> None:
    config = PRESETS["nano"]
    decoder = ReactiveTransformer.from_config(config).decoder
    weights = sum(p.numel() for name, p in decoder.named_parameters() if p.ndim > 1 and ".kv_proj" not in name and ".b" not in name)
    everything = decode_work(config.model_copy(update={"slots": 0}), batch=10_000, keys=0)
    assert everything.bytes == pytest.approx(4 * weights, rel=1e-9)
    one = decode_work(config, batch=1, keys=0)
    assert one.flop < decode_work(config, batch=1, keys=100).flop
    assert decode_work(config, batch=16, keys=50).flop == pytest.approx(16 * decode_work(config, batch=1, keys=50).flop)


def suite(value: float, taken: float = 0.0) -> types.ModuleType:
    module = types.ModuleType("tests.benchmarks.fake")

    def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
        for preset in presets:
            timed = Measurement(1.0, 1.0, 1, 2, taken, taken > 0)
            yield Row(preset, "speed", value, "tokens/s", True, bench.threads, bar=2.0, by_cpu=3 * value, measurement=timed)
            yield Row(preset, "time", 1 / value, "ms", False, bench.threads, note="a note")
            yield Row(preset, "unknown", None, "MB", False, bench.threads)

    module.rows = rows  # type: ignore[attr-defined]
    return module


def bench(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, *arguments: str) -> str:
    monkeypatch.setitem(sys.modules, "tests.benchmarks.fake", module)
    monkeypatch.setitem(command.SUITES, "model", "tests.benchmarks.fake")
    monkeypatch.setattr(command, "probe", lambda *sizes, device: Probe(161.0, 10.8))
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, ["model", "--threads", "1", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_results_are_shown_written_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    bench(monkeypatch, suite(2.0), "--out", str(old))
    shown = bench(monkeypatch, suite(3.0), "--out", str(new), "--against", str(old))
    assert "nano, 1 thread: 161 GFLOP/s, 10.8 GB/s" in shown
    assert shown.count("1.5") == 2, "both are 1.5 times as good"
    found = json.loads(new.read_text())
    assert [row["reached"] for row in found["rows"]] == [True, None, None]
    assert found["probes"] == {"1": {"gflops": 161.0, "copy": 10.8}}
    again = bench(monkeypatch, suite(9.0), "--read", str(old), "--against", str(new), "--out", str(tmp_path / "none.json"))
    assert not (tmp_path / "none.json").exists()
    assert "0.667" in again


def test_disturbed_results_are_marked_and_compared_by_cpu_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench(monkeypatch, suite(2.0, taken=0.4), "--out", str(tmp_path / "new.json"))
    found = command.load(tmp_path / "new.json")
    console = Console(width=200, file=io.StringIO(), record=True)
    for part in results(found):
        console.print(part)
    assert "40 % taken" in console.export_text()
    row = found["rows"][0]
    assert ratio(row, row | {"value": 1.0}) == 1.0
    assert ratio(row | {"by_cpu": None}, row | {"value": 1.0}) == 2.0


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"rows": []}')
    with pytest.raises(typer.BadParameter, match="no result file of this version"):
        command.load(tmp_path / "old.json")
    with pytest.raises(typer.BadParameter, match="cannot be read"):
        command.load(tmp_path / "nowhere.json")
