"""Collection through the public environment: what is sampled, what is written, and whose memory an episode starts from."""

from dataclasses import replace

import pytest
import torch

from rxrl.envs import ConversationVectorEnv
from rxrl.models.trajectory import memory_trajectory
from rxrl.policies import ModelPolicy, StmBackend
from rxrl.training.rollout import collect, critic_ids
from rxrl.types import ANSWER, BOS, EOS, PAD, QUERY, Action, Score, TokenBatch, interaction_ids
from tests.training.toy import CODEC, conversation, conversations, lively, make_env, play, scenarios, tiny_model, unscored_tells

MODEL = tiny_model()


def rows(batch, turn):
    return TokenBatch(batch.ids[turn], batch.mask[turn]).rows()


class Scripted:
    """Answers with given words, one list for each turn and row; `[EOS]` is left out where the limit is reached."""

    def __init__(self, answers, limit=4):
        self.answers, self.limit, self.turn = answers, limit, 0

    def act(self, observation, memory, generators):
        answers = [CODEC.encode(text) for text in self.answers[self.turn]][: len(observation.ids)]
        self.turn += 1
        ids = TokenBatch.pad([answer + [EOS] * (len(answer) <= self.limit) for answer in answers])
        return Action(ids.ids, ids.mask, torch.where(ids.mask, -0.5, 0.0))


def scripted(answers, chosen, **options):
    return collect(make_env(MODEL, len(chosen), **options), Scripted(answers), chosen, seed=0, iteration=0)


def test_what_is_written_is_what_was_answered_with_eos_behind_it():
    chosen = [conversation(3, 3)]
    rollout = scripted([["cat"], ["dog owl fox cat ok"], [""]], chosen)
    queries = [CODEC.encode(interaction.query) for interaction in chosen[0].interactions]
    sampled = [[*CODEC.encode("cat"), EOS], CODEC.encode("dog owl fox cat ok"), [EOS]]
    # The second answer is one token longer than the limit, and has no [EOS].
    written = [CODEC.encode("ok"), CODEC.encode("cat"), CODEC.encode("dog owl fox cat")]
    for turn in range(3):
        assert rows(rollout.writes, turn) == [interaction_ids(queries[turn], written[turn])]
        assert rows(rollout.turns, turn) == [[BOS, QUERY, *queries[turn + 1], ANSWER, *sampled[turn]]]
        assert rollout.turns.ids[turn][rollout.answer[turn]].tolist() == sampled[turn]
        assert rollout.sampled_log_probs[turn][rollout.answer[turn]].eq(-0.5).all()
    assert rollout.sampled_log_probs[~rollout.answer].eq(0).all()
    assert rollout.turns.ids[~rollout.turns.mask].eq(PAD).all()


def test_teacher_forcing_writes_references_and_keeps_the_sampled_tokens():
    chosen = conversations(3, 4)
    rollout = play(MODEL, chosen, teacher_forcing=True)
    free = play(MODEL, chosen)
    for turn in range(4):
        references = [c.interactions[turn] for c in chosen]
        assert rows(rollout.writes, turn) == [interaction_ids(CODEC.encode(i.query), CODEC.encode(i.answer)) for i in references]
    # The first turn reads the same memory, so the same answers are sampled; what is trained is what was sampled.
    assert rows(rollout.turns, 0) == rows(free.turns, 0)
    sampled = [turn.answer_ids for turn in rollout.scored_turns]
    assert any(turn.answer_ids != turn.reference_ids for turn in rollout.scored_turns)
    trained = [rollout.turns.ids[turn, row][rollout.answer[turn, row]].tolist() for turn in range(4) for row in range(3)]
    assert [tuple(token for token in ids if token != EOS)[:4] for ids in trained] == sampled


def test_every_row_of_a_partial_batch_is_used_and_padding_is_none():
    chosen = conversations(5, (1, 3, 2))
    rollout = play(MODEL, chosen, rows=8)
    assert rollout.real.T.tolist() == [[turn < c.steps for turn in range(3)] for c in chosen]
    assert rollout.steps[0].tolist() == [c.steps for c in chosen]
    assert rollout.scored.equal(rollout.real)
    assert rollout.answer.any(-1).equal(rollout.real)
    assert rollout.writes.mask.any(-1).equal(rollout.real)
    assert rollout.critic_tokens.mask.any(-1).equal(rollout.real)
    assert rollout.rewards[~rollout.real].eq(0).all()
    assert rollout.stm0.shape[1] == rollout.left.shape[1] == rollout.batch == 5
    assert len(rollout.scored_turns) == int(rollout.real.sum())
    assert not rollout.truncated.any()


def test_a_batch_of_one_has_the_shapes_of_a_batch():
    rollout = play(MODEL, conversations(1, 2))
    assert rollout.rewards.shape == rollout.real.shape == rollout.turn.shape == (2, 1)
    assert rollout.stm0.shape == MODEL.init_memory(1).shape
    assert rollout.turns.ids.shape[:2] == rollout.writes.ids.shape[:2] == (2, 1)


def by_conversation(rollout, chosen):
    """What each conversation left in a rollout, padding removed."""
    found = {}
    for row, c in enumerate(chosen):
        turns = range(c.steps)
        part = lambda batch, turn, row=row: tuple(batch.ids[turn, row][batch.mask[turn, row]].tolist())  # noqa: E731
        found[c.id] = (
            rollout.stm0[:, row].tolist(),
            [part(rollout.writes, turn) for turn in turns],
            [part(rollout.turns, turn) for turn in turns],
            [part(rollout.critic_tokens, turn) for turn in turns],
            [float(rollout.rewards[turn, row]) for turn in turns],
        )
    return found


@pytest.mark.parametrize("take", [conversations, scenarios])
def test_draws_do_not_depend_on_order_or_size_of_the_batch(take):
    chosen = take(6, (3, 1, 2))
    whole = by_conversation(play(MODEL, chosen), chosen)
    assert by_conversation(play(MODEL, chosen[::-1]), chosen[::-1]) == whole
    assert by_conversation(play(MODEL, chosen, rows=9), chosen) == whole
    parts = by_conversation(play(MODEL, chosen[:2]), chosen[:2]) | by_conversation(play(MODEL, chosen[2:]), chosen[2:])
    assert parts == whole


@pytest.mark.parametrize("change", [{"seed": 2}, {"iteration": 1}])
def test_seed_and_iteration_change_the_draws(change):
    chosen = conversations(2, 2)
    rollout, other = play(MODEL, chosen), play(MODEL, chosen, **change)
    assert not torch.equal(rollout.stm0, other.stm0)
    assert rows(rollout.turns, 0) != rows(other.turns, 0)


def test_a_group_has_one_conversation_and_one_stm0_and_answers_of_its_own():
    chosen = conversations(3, (3, 2))
    rollout = play(MODEL, chosen, group_size=4)
    assert rollout.batch == 12
    assert rollout.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for group in range(3):
        members = (rollout.group == group).nonzero().flatten().tolist()
        assert all(torch.equal(rollout.stm0[:, members[0]], rollout.stm0[:, row]) for row in members)
        assert len({tuple(rows(rollout.writes, 0)[row]) for row in members}) == 1
        prompts = {tuple(rollout.turns.ids[0, row][rollout.turns.mask[0, row] & ~rollout.answer[0, row]].tolist()) for row in members}
        assert len(prompts) == 1
        assert len({tuple(rows(rollout.turns, 0)[row]) for row in members}) > 1
    assert not torch.equal(rollout.stm0[:, 0], rollout.stm0[:, 4])


def test_samples_of_a_group_do_not_depend_on_what_stands_beside_it():
    chosen = conversations(3, 2)
    both = play(MODEL, chosen[:2], group_size=3)
    one = play(MODEL, chosen[1:2], group_size=3)
    larger = play(MODEL, chosen[1:2], group_size=5)
    assert rows(both.turns, 0)[3:] == rows(one.turns, 0) == rows(larger.turns, 0)[:3]
    assert torch.equal(both.stm0[:, 3:], one.stm0)


def test_a_group_carries_one_memory_over():
    before = play(MODEL, conversations(4, 2, start=50))
    rollout = play(MODEL, conversations(6, 2), left=before.left, reset_ratio=0.5, iteration=1, group_size=2)
    assert torch.equal(rollout.carried[::2], rollout.carried[1::2])
    assert torch.equal(rollout.stm0[:, ::2], rollout.stm0[:, 1::2])
    assert (rollout.carried >= 0).any()


def test_replaying_the_writes_gives_the_memory_of_the_environment():
    rollout = play(MODEL, conversations(3, 5))
    with torch.no_grad():
        stms = memory_trajectory(MODEL, rollout.stm0, rollout.writes.ids, rollout.writes.mask)
    # The last write of an episode is skipped, so what is left is what the last turn read.
    assert (stms[:, -1] - rollout.left).abs().max() < 1e-5


def test_a_warm_up_write_is_replayed_too():
    chosen = conversations(2, 3)
    rollout = play(MODEL, chosen, warm_up=True)
    assert len(rollout.writes.ids) == 4
    assert len(rollout.real) == 3
    assert rows(rollout.writes, 0) == rows(rollout.writes, 1)
    with torch.no_grad():
        stms = memory_trajectory(MODEL, rollout.stm0, rollout.writes.ids, rollout.writes.mask)
    assert (stms[:, -1] - rollout.left).abs().max() < 1e-5


def test_carried_memory_is_stored_with_the_rollout():
    chosen = conversations(4, 3)
    before = play(MODEL, conversations(3, 2, start=50))
    rollout = play(MODEL, chosen, left=before.left, reset_ratio=0.0, iteration=1)
    assert (rollout.carried >= 0).all()
    assert torch.equal(rollout.stm0, before.left[:, rollout.carried])
    fresh = play(MODEL, chosen, iteration=1)
    assert (fresh.carried == -1).all()
    mixed = play(MODEL, chosen, left=before.left, reset_ratio=0.5, iteration=1)
    carried = mixed.carried >= 0
    assert carried.any()
    assert not carried.all()
    assert torch.equal(mixed.stm0[:, ~carried], fresh.stm0[:, ~carried])
    assert torch.equal(mixed.stm0[:, carried], before.left[:, mixed.carried[carried]])
    # A partial batch carries the same memories.
    assert torch.equal(play(MODEL, chosen, rows=7, left=before.left, reset_ratio=0.5, iteration=1).carried, mixed.carried)


def test_reset_ratio_is_the_share_of_fresh_starts():
    chosen = [conversation(index, 1) for index in range(300)]
    rollout = play(MODEL, chosen, left=play(MODEL, chosen[:2]).left, reset_ratio=0.4, iteration=1)
    assert 0.3 < float((rollout.carried < 0).double().mean()) < 0.5


def test_the_critic_reads_what_is_saved_and_the_query():
    chosen = [conversation(1, 6)]
    rollout = play(MODEL, chosen, teacher_forcing=True)
    for turn, seen in enumerate(rollout.scored_turns):
        asked = set(seen.expected.values())
        text = CODEC.decode(critic_ids(seen))
        assert rollout.critic_tokens.ids[turn, 0][rollout.critic_tokens.mask[turn, 0]].tolist() == critic_ids(seen)
        assert asked <= set(text.split())
        assert text.endswith(chosen[0].follow_ups[turn].query)


def test_a_critic_of_dialogues_reads_all_that_was_said_and_the_query():
    chosen = [conversation(1, 4)]
    rollout = play(MODEL, chosen, whole=True)
    told = [each for turn in rollout.scored_turns for each in (turn.query, turn.answer)]
    for turn, seen in enumerate(rollout.scored_turns):
        read = rollout.critic_tokens.ids[turn, 0][rollout.critic_tokens.mask[turn, 0]].tolist()
        first = chosen[0].first
        assert CODEC.decode(read).split() == " ".join([first.query, first.answer, *told[: 2 * turn], seen.query]).split()


def test_unscored_turns_are_marked():
    rollout = play(MODEL, [conversation(5, 8)], reward=unscored_tells)
    asking = torch.tensor([bool(i.asks) for i in conversation(5, 8).follow_ups])
    assert asking.any()
    assert not asking.all()
    assert rollout.scored[:, 0].equal(asking)
    assert rollout.asking[:, 0].equal(asking)
    assert rollout.real.all()
    assert rollout.terms["short"].isnan()[:, 0].equal(~asking)


class KindEnv(ConversationVectorEnv):
    """A user's environment: its own scores, its own cut, its own first memory, a note of what was asked of it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.actions = 0

    def score(self, turns):
        return [Score(turn.index + 0.5, {"kindness": 3.0}) for turn in turns]

    def step(self, actions):
        self.actions += 1
        observation, rewards, terminated, truncated, info = super().step(actions)
        return observation, rewards * 2, terminated, truncated, info

    def reset(self, **given):
        observation, info = super().reset(**given)
        info["written"][0] = [*info["written"][0]]
        return observation, info


def test_a_subclass_of_the_environment_is_collected_from_and_its_overrides_are_felt():
    chosen = conversations(2, 3)
    env = make_env(MODEL, 2, make=KindEnv)
    rollout = collect(env, ModelPolicy(MODEL, 5), chosen, seed=1, iteration=0)
    assert rollout.rewards.tolist() == [[3.0, 3.0], [5.0, 5.0], [7.0, 7.0]]
    assert rollout.terms["kindness"].eq(3).all()
    assert env.actions == 3
    plain = play(MODEL, chosen, reward=lively)
    assert torch.equal(rollout.turns.ids, plain.turns.ids)


def test_memory_reaches_the_policy_through_the_environment_only():
    """A subclass that empties memory before each answer is felt by the policy."""

    class Forgetful(ConversationVectorEnv):
        @property
        def memory(self):
            return None if self._memory is None else torch.zeros_like(self._memory)

    chosen = conversations(3, 3)
    assert not torch.equal(play(MODEL, chosen, make=Forgetful).sampled_log_probs, play(MODEL, chosen).sampled_log_probs)


def test_picking_rows_keeps_padding_and_order():
    rollout = play(MODEL, conversations(4, (2, 3)))
    picked = rollout.rows(torch.tensor([2, 0]))
    assert picked.batch == 2
    for name in ("rewards", "scored", "asking", "real", "turn", "steps", "answer", "sampled_log_probs"):
        assert torch.equal(getattr(picked, name), getattr(rollout, name)[:, [2, 0]])
    for name in ("truncated", "carried", "group"):
        assert torch.equal(getattr(picked, name), getattr(rollout, name)[[2, 0]])
    assert torch.equal(picked.stm0, rollout.stm0[:, [2, 0]])
    assert torch.equal(picked.turns.ids, rollout.turns.ids[:, [2, 0]])
    assert replace(picked, terms={}).turns.ids.shape[2] == rollout.turns.ids.shape[2]


def test_tokens_are_counted_as_in_supervised_episodes():
    rollout = play(MODEL, conversations(2, 3))
    assert rollout.tokens == int(rollout.turns.mask.sum() + rollout.writes.mask[0].sum())


def test_the_backend_is_asked_for_stm0_of_the_seeds_that_the_environment_used():
    class OtherSeeds(ConversationVectorEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed, options=dict(options) | {"stm_seeds": [5] * len(options["conversations"])})

    rollout = play(MODEL, conversations(2, 2), make=OtherSeeds)
    assert torch.equal(rollout.stm0, StmBackend(MODEL).init([5, 5]))
