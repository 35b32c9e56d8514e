"""Signals end a training in good order: hang-ups and the warnings of schedulers too."""

import os
import signal

import pytest

from rxrl.errors import Interrupted
from rxrl.runs import signals
from rxrl.runs.checkpoints import numbered
from rxrl.runs.signals import HANDLED, Interruption, Relay
from tests.stages.small import Each, runner_in
from tests.training.resume_worker import run, trainer_in
from tests.training.test_resume import SignalAt

OTHERS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", OTHERS)
def test_a_training_writes_a_checkpoint_and_goes_on_from_it(number, tmp_path):
    said = []
    with pytest.raises(Interrupted, match=r"Interrupted after iteration 3: wrote .*step-000003; go on with --resume") as stop:
        trainer_in(tmp_path / "cut", callbacks=[SignalAt(number, 3)]).train(said.append)
    assert stop.value.exit_code == 128 + number
    assert said == [f"{number.name}: finishing this iteration, then writing a checkpoint."]
    for folder in ("cut", "whole"):
        run(str(tmp_path / folder))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("number", OTHERS)
def test_a_stage_writes_a_checkpoint(number, tmp_path):
    def end(name, at, total, metrics):
        if at == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="after step 2"):
        runner_in(tmp_path, callbacks=[Each(end)]).train()
    assert [path.name for path in numbered(tmp_path / "checkpoints" / "smat")] == ["step-000002"]


@pytest.mark.parametrize(
    ("first", "second", "at_once"),
    [
        (signal.SIGUSR1, signal.SIGTERM, False),
        (signal.SIGHUP, signal.SIGHUP, False),
        (signal.SIGHUP, signal.SIGTERM, False),
        (signal.SIGTERM, signal.SIGTERM, True),
        (signal.SIGTERM, signal.SIGINT, True),
    ],
)
def test_only_a_person_or_the_same_order_again_ends_what_is_being_saved(first, second, at_once, monkeypatch):
    monkeypatch.setattr(signals, "SAME", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interruption, left = Interruption(), False
        with interruption.watched(lambda text: None, "iteration"):
            try:
                for each in (first, second):
                    os.kill(os.getpid(), each)
            except Interrupted:
                left = True
        assert (left, interruption.received) == (at_once, first)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_up_that_was_to_be_ignored_is_ignored():
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interruption = Interruption()
        with interruption.watched(lambda text: None, "iteration"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_has_gone_does_not_end_what_is_being_finished():
    def gone(text):
        raise OSError(5, "Input/output error")

    interruption = Interruption()
    with interruption.watched(gone, "iteration"):
        os.kill(os.getpid(), signal.SIGHUP)
    assert interruption.received == signal.SIGHUP


@pytest.fixture
def as_a_program_starts():
    """The handlers that Python begins with."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in HANDLED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", HANDLED)
def test_every_signal_is_handed_on_and_ends_what_does_not_listen(number, as_a_program_starts):
    handed = []
    with pytest.raises(Interrupted, match="go on with --resume") as stop, Relay(handed.append).listening():
        os.kill(os.getpid(), number)
    assert handed == [number]
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}


@pytest.mark.parametrize("number", HANDLED)
def test_a_training_listens_in_the_place_of_the_relay_and_hands_on_what_it_heeds(number, as_a_program_starts, monkeypatch):
    monkeypatch.setattr(signals, "SAME", 0.0)
    handed, interruption, relay = [], Interruption(), Relay()
    relay.hand_on = handed.append
    with relay.listening():
        # Nothing in the block heeds it, as where it comes behind the last step: it ends what goes on.
        with pytest.raises(Interrupted, match="go on with --resume") as stop, interruption.watched(lambda text: None, "iteration"):  # noqa: PT012
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.value.exit_code == 128 + number
        assert signal.getsignal(number) == relay
    assert interruption.received == number
    assert handed == [number]  # One is enough: what comes later may be the same order over again.


def test_a_relay_that_no_longer_ends_anything_still_hands_on(as_a_program_starts):
    handed = []
    relay = Relay(handed.append)
    with relay.listening():
        relay.ends = False
        os.kill(os.getpid(), signal.SIGTERM)
    assert handed == [signal.SIGTERM]
