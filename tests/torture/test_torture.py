"""A short form of scripts/torture.sh: a few kills, full disks, clashes and changed files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture import inputs, pairs
from tests.torture.__main__ import Torture
from tests.torture.jobs import Whole, jobs
from tests.torture.readers import kinds

pytestmark = pytest.mark.slow

SOME = {"stage sft", "train", "rescore", "data generate", "data tokenize (conversations)"}


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    with Torture(tmp_path_factory.mktemp("torture"), processes=1, seed=1) as torture:
        yield torture


@pytest.fixture(scope="module")
def wholes(torture: Torture) -> list[Whole]:
    return torture.wholes([job for job in jobs() if job.name in SOME])


def test_killed_commands_go_on_as_if_nothing_had_been(torture: Torture, wholes: list[Whole]) -> None:
    # A few more than are counted: shares are rounded.
    tallies = list(torture.kills(wholes, 14))
    assert [problem for tally in tallies for problem in tally.problems] == []
    assert sum(tally.counts["kills"] for tally in tallies) >= 12
    assert all(tally.counts["same"] == tally.counts["folders"] > 0 for tally in tallies)


def test_a_full_disk_gets_one_sentence_and_leaves_nothing_behind(torture: Torture, wholes: list[Whole]) -> None:
    tallies = list(torture.disks(wholes, most=2, small=1))
    assert [problem for tally in tallies for problem in tally.problems] == []
    assert all(tally.counts["same"] == tally.counts["full"] > 0 for tally in tallies)


def test_a_second_command_in_a_folder_is_refused_until_the_first_is_dead(torture: Torture, wholes: list[Whole]) -> None:
    stage, train = (whole for whole in wholes if whole.job.out == "run")
    for first, second in ((stage, train), (train, train)):
        tally = next(torture.each(pairs.clash, [(first, second)]))
        assert tally.problems == []
        assert tally.counts == {"refused": 1, "same": 1}


def test_changed_files_of_every_kind_are_read_or_refused_in_one_sentence(torture: Torture, tmp_path: Path) -> None:
    read = refused = 0
    for kind, count in inputs.shared_out(kinds(torture.base), 700):
        tally = inputs.torment(kind, tmp_path / "work", range(count), seed=1)
        assert tally.problems == []
        read, refused = read + tally.counts["read"], refused + tally.counts["refused"]
    assert read > 50
    assert refused > 300
