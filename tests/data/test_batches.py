"""Conversations to token batches."""

import pytest
import torch

from rxrl.data.batches import answer_positions, checked_ids, episode_batch, turns_first
from rxrl.errors import DataError
from rxrl.types import ANSWER, BOS, EOS, PAD, QUERY, Conversation, Interaction


class Codec:
    """One token a letter."""

    def encode(self, text):
        return [7 + ord(letter) - ord("a") for letter in text]

    def decode(self, ids):
        return "".join(chr(i - 7 + ord("a")) for i in ids)


CODEC = Codec()


def talk(name, *pairs):
    first, *rest = [Interaction(query, answer) for query, answer in pairs]
    return Conversation(name, first, tuple(rest))


def ids(query, answer):
    return [BOS, QUERY, *CODEC.encode(query), ANSWER, *CODEC.encode(answer), EOS]


LONG = talk("long", ("ab", "c"), ("d", "efg"), ("", ""))
SHORT = talk("short", ("h", "i"), ("jkl", "m"))


def rows(batch, turn):
    return [row[mask].tolist() for row, mask in zip(batch.ids[turn], batch.mask[turn], strict=True)]


def test_each_turn_is_decoded_after_the_interaction_before_it_was_written():
    batch = episode_batch([LONG, SHORT], CODEC, 20)
    assert rows(batch.writes, 0) == [ids("ab", "c"), ids("h", "i")]
    assert rows(batch.turns, 0) == [ids("d", "efg"), ids("jkl", "m")]
    assert rows(batch.writes, 1) == [ids("d", "efg"), ids("jkl", "m")]
    assert rows(batch.turns, 1) == [ids("", ""), []]
    assert batch.real.tolist() == [[True, True], [True, False]]
    for part in (batch.writes, batch.turns):
        assert part.ids[~part.mask].eq(PAD).all()


def test_answers_are_what_stands_behind_the_marker_with_eos():
    batch = episode_batch([LONG, SHORT], CODEC, 20)
    answers = [[batch.turns.ids[turn, row][batch.answer[turn, row]].tolist() for row in range(2)] for turn in range(2)]
    assert answers == [[[*CODEC.encode("efg"), EOS], [*CODEC.encode("m"), EOS]], [[EOS], []]]
    assert not (batch.answer & ~batch.turns.mask).any()


def test_a_batch_does_not_depend_on_the_order_of_its_rows():
    one, two = episode_batch([LONG, SHORT], CODEC, 20), episode_batch([SHORT, LONG], CODEC, 20)
    for name in ("writes", "turns"):
        assert torch.equal(getattr(one, name).ids, getattr(two, name).ids[:, [1, 0]])
    assert torch.equal(one.answer, two.answer[:, [1, 0]])
    assert torch.equal(one.real, two.real[:, [1, 0]])


def test_tokens_count_what_was_told_and_said_once():
    lengths = [len(ids(i.query, i.answer)) for c in (LONG, SHORT) for i in c.interactions]
    # The last interaction of each is decoded and never written; the others are counted once although they are both.
    assert episode_batch([LONG, SHORT], CODEC, 20).tokens == sum(lengths)


def test_the_limit_is_exact_and_an_error_names_conversation_and_turn():
    longest = len(ids("d", "efg"))
    brief = talk("brief", ("h", "i"), ("j", "m"))
    assert episode_batch([brief, LONG], CODEC, longest).turns.ids.shape[2] == longest
    with pytest.raises(DataError, match=rf"'long', turn 1: the interaction has {longest} tokens, but {longest - 1} is the"):
        episode_batch([brief, LONG], CODEC, longest - 1)


def test_small_parts():
    batch = turns_first([[[1, 2, 3], [4]], [[], [5, 6]]])
    assert batch.ids.tolist() == [[[1, 2, 3], [4, 0, 0]], [[0, 0, 0], [5, 6, 0]]]
    assert batch.mask.sum(-1).tolist() == [[3, 1], [0, 2]]
    positions = answer_positions(torch.tensor([[1, 1], [0, 2]]), batch.mask)
    assert positions.int().tolist() == [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert checked_ids(LONG, 1, CODEC, 8) == (ids("d", "efg"), 4)
    assert turns_first([[[], []]]).ids.shape == (1, 2, 1)
