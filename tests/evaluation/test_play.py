from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rxrl.envs import TranscriptMemory
from rxrl.errors import ConfigError, DataError
from rxrl.evaluation import CONTROLS, cost_by_turn, evaluate, play, play_conditions, read_records, summarise
from rxrl.evaluation.swapping import Knowledge, arrange, choose_partners
from rxrl.models import ReactiveTransformer
from rxrl.models.sizes import count_bytes
from rxrl.policies import ModelPolicy, Parrot, StmBackend
from tests.evaluation.fakes import (
    UNKNOWN,
    BookMemory,
    Forgetful,
    Guesser,
    Reader,
    WordCodec,
    ask,
    chat,
    conversations,
    environment,
    tell,
)


def _mean(records):
    return np.mean([record.retention for record in records if record.retention is not None])


def test_every_turn_of_every_conversation_is_recorded_once_and_in_order():
    played = conversations(5, steps=4) + [replace(c, id=f"long-{c.id}") for c in conversations(4, steps=7, seed=1)]
    codec = WordCodec()
    records = play(environment(played, codec, 3), Reader(codec), played, seed=1)
    assert [record.key for record in records] == [(c.id, turn) for c in played for turn in range(1, c.steps + 1)]
    assert all(len(record.turn.history) == record.turn.index for record in records)
    assert all(record.turn.steps == c.steps for c in played for record in records if record.turn.conversation_id == c.id)


def test_a_policy_that_reads_memory_is_right_and_one_that_does_not_is_near_chance():
    played = conversations(24)
    codec = WordCodec()
    env = environment(played, codec, 8)
    assert _mean(play(env, Reader(codec), played, seed=1)) == 1.0
    assert _mean(play(env, Forgetful(codec), played, seed=1)) < 0.3


def test_controls_tell_a_real_memory_from_none():
    played = conversations(24)
    codec = WordCodec()
    results = play_conditions(environment(played, codec, 8), Reader(codec), played, seed=1, controls=CONTROLS)
    assert _mean(results["oracle"]) == 1.0
    assert _mean(results["swapped_memory"]) == 0.0
    empty = results["empty_memory"]
    assert all(record.turn.answer == UNKNOWN for record in empty if record.turn.asking)
    assert all(record.retention == float(record.turn.unknown) for record in empty if record.turn.asking)
    assert {record.control for control in CONTROLS for record in results[control]} == set(CONTROLS)


def test_swapping_changes_nothing_for_a_policy_without_memory():
    played = conversations(24)
    codec = WordCodec()
    results = play_conditions(environment(played, codec, 8), Forgetful(codec), played, seed=1, controls=["swapped_memory"])
    true = {record.key: record for record in results["true"]}
    assert results["swapped_memory"]
    assert all(record.retention == true[record.key].retention for record in results["swapped_memory"])


def test_swapped_turns_ask_for_told_facts_and_the_rest_is_counted():
    played = conversations(24)
    codec = WordCodec()
    results = play_conditions(environment(played, codec, 8), Reader(codec), played, seed=1, controls=["swapped_memory"])
    swapped = results["swapped_memory"]
    assert all(record.turn.asking and not record.turn.unknown for record in swapped)
    asked = sum(record.turn.asking for record in results["true"])
    assert swapped.left_out == asked - len(swapped)
    told = sum(record.turn.asking and not record.turn.unknown for record in results["true"])
    assert len(swapped) > 0.9 * told


def test_controls_leave_the_true_run_as_it_is():
    played = conversations(12, steps=6)
    codec = WordCodec()
    env = environment(played, codec, 4)
    alone = play(env, Reader(codec), played, seed=1)
    beside = play_conditions(env, Reader(codec), played, seed=1, controls=CONTROLS)
    assert list(beside["true"]) == list(alone)
    for control in CONTROLS:
        assert list(play(env, Reader(codec), played, seed=1, control=control)) == list(beside[control])
        known = {record.key: record for record in alone}
        assert all(record.turn.expected == known[record.key].turn.expected for record in beside[control])


@pytest.mark.parametrize("policy", [Reader, Guesser])
def test_batch_size_and_order_change_nothing(policy):
    played = conversations(11, steps=5) + [replace(c, id=f"short-{c.id}") for c in conversations(3, steps=2, seed=1)]
    codec = WordCodec()
    expected = play(
        environment(played, codec, 1),
        policy(codec),
        played,
        seed=5,
        greedy=policy is Reader,
        control="empty_memory" if policy is Reader else None,
    )
    for size, order in ((4, played), (32, played), (5, played[::-1])):
        env = environment(played, codec, size)
        found = play(env, policy(codec), order, seed=5, greedy=policy is Reader, control="empty_memory" if policy is Reader else None)
        assert {record.key: record for record in found} == {record.key: record for record in expected}


def test_samples_depend_on_the_seed():
    played = conversations(6, steps=4)
    codec = WordCodec()
    env = environment(played, codec, 4)
    first, again, other = (play(env, Guesser(codec), played, seed=seed, greedy=False) for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_initial_memory_is_keyed_by_the_conversation():
    seeds = []

    class Watching(BookMemory):
        def init(self, wanted):
            seeds.append(dict.fromkeys(wanted))
            return super().init(wanted)

    played = conversations(6, steps=2)
    codec = WordCodec()
    play(environment(played, codec, 6, Watching()), Reader(codec), played, seed=3)
    play(environment(played, codec, 6, Watching()), Reader(codec), played[::-1], seed=3)
    assert seeds[0].keys() == seeds[1].keys()
    assert len(seeds[0]) == 6


def test_random_resets_of_training_are_not_used():
    played = conversations(8, steps=3)
    codec = WordCodec()
    fresh = play(environment(played, codec, 2), Reader(codec), played, seed=1)
    env = environment(played, codec, 2, reset_ratio=0.0)
    play(env, Reader(codec), played, seed=1)
    assert list(play(env, Reader(codec), played, seed=1)) == list(fresh)


def test_rows_that_ended_cost_nothing():
    played = conversations(5, steps=3)
    codec = WordCodec()
    policy = Reader(codec)
    play(environment(played, codec, 4), policy, played, seed=1)
    assert policy.rows_seen == [4, 4, 4, 1, 1, 1]


def test_memories_are_those_of_the_true_run_where_answers_are_written():
    """A reader that answers wrongly only when it reads another's memory must not spoil its own later turns."""
    first = [tell("mia.pet", "cat"), tell("mia.pet", "dog")]
    played = [
        replace(conversations(1)[0], id=f"c{i}", first=told, follow_ups=(ask("mia.pet", value), chat(), ask("mia.pet", value)))
        for i, (told, value) in enumerate(zip(first, ("cat", "dog"), strict=True))
    ]
    codec = WordCodec()
    results = play_conditions(environment(played, codec, 2), Reader(codec), played, seed=1, controls=["swapped_memory"])
    assert _mean(results["true"]) == 1.0
    assert [record.turn.answer for record in results["swapped_memory"]] == ["it is dog .", "it is dog .", "it is cat .", "it is cat ."]
    assert [record.turn.distance for record in results["swapped_memory"]] == [1, 2, 1, 2]


def test_a_partner_holds_every_asked_key_with_another_value():
    cat, dog, nothing = (
        replace(conversations(1)[0], id=name, first=told, follow_ups=(ask("mia.pet", value),))
        for name, told, value in (("a", tell("mia.pet", "cat"), "cat"), ("b", tell("mia.pet", "dog"), "dog"), ("c", chat(), None))
    )
    batch = [cat, dog, nothing, replace(cat, id="d")]
    known = {each.id: Knowledge.of(each) for each in batch}
    assert choose_partners(batch, known, [0, 1, 2, 3], 1, seed=0) == {0: 1, 1: choose_partners(batch, known, [0, 1, 3], 1, seed=0)[1], 3: 1}
    assert choose_partners(batch, known, [0, 2, 3], 1, seed=0) == {}


def test_arranging_keeps_every_conversation_and_finds_more_partners():
    played = conversations(30, steps=6)
    # Half of them know other people, so that neighbours rarely help one another.
    renamed = [
        replace(
            c,
            first=replace(c.first, facts=(("zoe.pet", "cat" if i % 4 else "dog"),)),
            follow_ups=(ask("zoe.pet", "cat" if i % 4 else "dog"),) * 6,
        )
        if i % 2
        else c
        for i, c in enumerate(played)
    ]
    known = {c.id: Knowledge.of(c) for c in renamed}

    def served(batches):
        return sum(len(choose_partners(batch, known, range(len(batch)), turn, 0)) for batch in batches for turn in range(1, 7))

    batches = arrange(renamed, known, 4)
    assert sorted(c.id for batch in batches for c in batch) == sorted(c.id for c in renamed)
    assert [len(batch) for batch in batches] == [4] * 7 + [2]
    assert served(batches) > served([renamed[i : i + 4] for i in range(0, 30, 4)])


def test_answers_of_controls_end_where_the_environment_ends_them():
    played = conversations(6, steps=3)
    codec = WordCodec()
    results = play_conditions(environment(played, codec, 3, max_answer_tokens=2), Reader(codec), played, seed=1, controls=CONTROLS)
    turns = [record.turn for records in results.values() for record in records]
    assert all(len(turn.answer_ids) <= 2 and len(turn.answer.split()) <= 2 for turn in turns)
    assert _mean(results["oracle"]) < 1.0


def test_cost_is_counted_for_each_turn():
    played = conversations(5, steps=3)
    codec = WordCodec()
    records = play(environment(played, codec, 2), Reader(codec), played, seed=1)
    cost = cost_by_turn(records.costs)
    assert [row["turn"] for row in cost] == [1, 2, 3]
    assert all(row["conversations"] == 5 and row["tokens"] > 0 and row["seconds"] >= 0 for row in cost)
    lengths = [len(codec.encode(c.follow_ups[0].query)) + 3 + len(codec.encode(f"{c.first.query} {c.first.answer}")) + 4 for c in played]
    assert cost[0]["tokens"] == pytest.approx(np.mean(lengths))


def test_a_transcript_costs_more_with_every_turn():
    class Counted(tuple):
        def token_counts(self):
            return np.array([sum(map(len, row)) for row in self])

    class Transcript(BookMemory):
        def init(self, seeds):
            return Counted(() for _ in seeds)

        def write(self, memory, interactions, rows):
            return Counted(super().write(memory, interactions, rows))

    played = [replace(c, follow_ups=(chat(),) * 5) for c in conversations(4, steps=5)]
    codec = WordCodec()
    records = play(environment(played, codec, 4, Transcript()), Forgetful(codec), played, seed=1)
    tokens = [row["tokens"] for row in cost_by_turn(records.costs)]
    assert all(later > earlier for earlier, later in pairwise(tokens))


def test_a_transcript_grows_and_a_memory_of_fixed_size_does_not():
    played = conversations(4, steps=6)
    codec = WordCodec()
    read = play(environment(played, codec, 2, TranscriptMemory()), Parrot(), played, seed=1)
    sizes = [row["memory_bytes"] for row in cost_by_turn(read.costs)]
    assert all(later > earlier > 0 for earlier, later in pairwise(sizes))
    assert [row["memory_bytes"] for row in cost_by_turn(play(environment(played, codec, 2), Reader(codec), played, seed=1).costs)] == [
        None
    ] * 6
    codec.encode(" ".join(f"word{number}" for number in range(codec.vocab_size - len(codec.words))))
    model = ReactiveTransformer.from_preset("pico", seed=0, vocab_size=codec.vocab_size)
    stm = play(environment(played, codec, 2, StmBackend(model)), ModelPolicy(model, 3), played, seed=1)
    assert {row["memory_bytes"] for row in cost_by_turn(stm.costs)} == {count_bytes(model)["memory_bytes"]}


def test_wrong_input_is_refused():
    played = conversations(3, steps=2)
    codec = WordCodec()
    env = environment(played, codec, 2)
    with pytest.raises(ConfigError, match="swapped_memory"):
        play(env, Reader(codec), played, seed=1, control="swaped_memory")
    with pytest.raises(DataError, match="more than once"):
        play(env, Reader(codec), [*played, played[0]], seed=1)
    with pytest.raises(ConfigError, match="autoreset"):
        play(environment(played, codec, 2, autoreset_mode="SameStep"), Reader(codec), played, seed=1)


def test_a_memory_without_row_selection_is_named():
    class Whole(BookMemory):
        select_rows = None

    played = conversations(3, steps=2)
    codec = WordCodec()
    with pytest.raises(ConfigError, match="select_rows"):
        play(environment(played, codec, 2, Whole()), Reader(codec), played, seed=1)


def test_evaluate_writes_what_a_report_reads(tmp_path):
    played = conversations(10, steps=4)
    codec = WordCodec()
    result = evaluate(environment(played, codec, 4), Reader(codec), played, seed=1, controls=CONTROLS, resamples=50)
    assert result.summary == summarise(result.records, seed=1, resamples=50)
    assert result.controls["oracle"]["retention"] == 1.0
    assert result.controls["swapped_memory"]["contribution"]["difference"] == 1.0
    result.save(tmp_path)
    assert read_records(tmp_path / "transcripts.jsonl") == list(result.records)
    assert {path.name for path in tmp_path.iterdir()} == {
        "evaluation.json",
        "timings.json",
        "transcripts.jsonl",
        *(f"transcripts.{c}.jsonl" for c in CONTROLS),
    }


def test_no_conversations_give_an_empty_evaluation():
    played = conversations(2, steps=2)
    codec = WordCodec()
    result = evaluate(environment(played, codec, 2), Reader(codec), [], seed=1, controls=CONTROLS, resamples=50)
    assert result.summary["retention"] is None
    assert result.summary["conversations"] == 0
