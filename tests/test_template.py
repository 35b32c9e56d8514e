"""The interaction template from rows to tokens, losses, generation, chat and environment; nothing differs where it is absent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rxrl.algorithms import AlgorithmConfig
from rxrl.cli.main import app
from rxrl.data.batches import checked_ids, episode_batch
from rxrl.data.corpora import open_corpus
from rxrl.data.importers import import_chat
from rxrl.data.rows import read_conversations, to_conversation, to_row, write_conversations
from rxrl.data.stats import data_stats
from rxrl.data.stores import ConversationStore, Options, build, opening
from rxrl.data.tokenizer import TOKENIZER_FILE, Tokenizer
from rxrl.envs import ConversationEnv, ConversationVectorEnv, NoMemory, TranscriptMemory, token_batch
from rxrl.errors import CheckpointError, ConfigError, DataError, ModelError
from rxrl.evaluation.records import TurnRecord
from rxrl.evaluation.transcripts import choose_episodes
from rxrl.factory import load_checkpoint, make_vector_env
from rxrl.models import AnswerEnd, ReactiveSession, ReactiveTransformer, Token, generate
from rxrl.policies import Dialogue, ModelPolicy, Oracle, StmBackend, TextPolicy
from rxrl.rewards import load_reward
from rxrl.runs.processes import Processes
from rxrl.runs.run import Run
from rxrl.stages.losses import mask_tokens, predicted
from rxrl.template import (
    CALL,
    INTERNAL,
    RESULT,
    THINK,
    interaction_tokens,
    prompt_tokens,
    split_said,
    split_written,
    system_interaction,
    texts_of,
)
from rxrl.training.replay import policy_log_probs
from rxrl.training.rollout import collect
from rxrl.training.signals import Material
from rxrl.types import ANSWER, BOS, EOS, QUERY, Action, Conversation, Interaction, TokenBatch, interaction_ids
from tests.models.small import config, model_of
from tests.training.lessons import signals_of

SYSTEM = "You are kind."
ROW = {
    "id": "weather",
    "system": SYSTEM,
    "query": "Weather in Rome?",
    "answer": "I look it up.",
    "think": "A tool knows.",
    "tool_call": "weather(Rome)",
    "interactions": [
        {"tool_result": "sunny", "answer": "It is sunny in Rome."},
        {"internal": "Be brief.", "query": "Where was that?", "answer": "In Rome.", "asks": []},
        {"query": "And now?", "answer": "Still sunny."},
    ],
}
SAID = (
    "You are kind. Weather in Rome? I look it up. A tool knows. weather(Rome) sunny It is sunny in Rome. Be brief. Where was that? Still."
)
MARKED = Tokenizer.train([SAID], 320, template=True)
PLAIN = Tokenizer.train([SAID], 320)


def ids(text: str, codec: Tokenizer = MARKED) -> list[int]:
    return codec.encode(text)


def conversation() -> Conversation:
    return to_conversation(ROW, "row-1")


def model(template: bool = True, **changes: Any) -> ReactiveTransformer:
    return model_of(config(vocab_size=320, max_length=64, template=template, **changes), ends=2.0)


# Rows


def test_a_system_prompt_is_an_interaction_of_its_own_and_a_row_survives() -> None:
    found = conversation()
    assert found.first == system_interaction(SYSTEM)
    assert [each.query for each in found.follow_ups] == ["Weather in Rome?", "", "Where was that?", "And now?"]
    assert found.follow_ups[0].extra == {"think": "A tool knows.", "tool_call": "weather(Rome)"}
    assert found.extra == {}
    assert to_conversation(to_row(found), "row-1") == found
    without = {key: value for key, value in ROW.items() if key != "system"}
    assert to_conversation(to_row(to_conversation(without, "x")), "x") == to_conversation(without, "x")


def test_rows_with_segments_are_written_and_read(tmp_path: Path) -> None:
    for file in ("rows.jsonl", "rows.parquet"):
        write_conversations(tmp_path / file, [conversation()])
        assert read_conversations(tmp_path / file) == [conversation()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": 3}, "system: expected text, got 3"),
        ({"system": " "}, "system: expected text"),
        ({"think": 3}, "think: expected text, got 3"),
        ({"query": None}, "'query' is missing"),
        ({"query": ""}, "query: expected text of at least 1 characters"),
        ({"answer": "", "tool_call": None}, "answer: expected text of at least 1 characters"),
    ],
)
def test_rows_with_wrong_segments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_conversation(ROW | change, "row-1")


# Tokens and losses


def test_each_segment_stands_behind_its_marker() -> None:
    system, first, tool, brief, plain = (interaction_tokens(each, MARKED) for each in conversation().interactions)
    assert system.ids == [BOS, INTERNAL, *ids(SYSTEM), EOS]
    question, answer = ids("Weather in Rome?"), ids("I look it up.")
    assert first.ids == [
        *(BOS, QUERY, *question, THINK, *ids("A tool knows."), ANSWER, *answer, CALL, *ids("weather(Rome)"), EOS),
    ]
    assert tool.ids == [BOS, RESULT, *ids("sunny"), ANSWER, *ids("It is sunny in Rome."), EOS]
    assert brief.ids == [BOS, INTERNAL, *ids("Be brief."), QUERY, *ids("Where was that?"), ANSWER, *ids("In Rome."), EOS]
    assert plain.ids == interaction_ids(ids("And now?"), ids("Still sunny."))
    assert [each.prompt for each in (first, plain)] == [3 + len(question), 3 + len(ids("And now?"))]


def test_what_is_heard_is_not_trained_on() -> None:
    batch = episode_batch([conversation()], MARKED, 96)
    trained = [batch.turns.ids[turn, 0][batch.answer[turn, 0]].tolist() for turn in range(4)]
    assert trained == [
        [*ids("A tool knows."), ANSWER, *ids("I look it up."), CALL, *ids("weather(Rome)"), EOS],
        [*ids("It is sunny in Rome."), EOS],
        [*ids("In Rome."), EOS],
        [*ids("Still sunny."), EOS],
    ]


def test_language_modelling_predicts_what_the_model_says_and_all_of_a_text() -> None:
    rows = [checked_ids(conversation(), turn, MARKED, 96)[0] for turn in range(5)]
    batch = TokenBatch.pad([*rows, [BOS, *ids("Weather"), EOS]])
    found = predicted(model(), batch)
    targets = [batch.ids[row, 1:][found[row]].tolist() for row in range(len(batch.ids))]
    assert targets[0] == []
    assert targets[1] == [*ids("A tool knows."), ANSWER, *ids("I look it up."), CALL, *ids("weather(Rome)"), EOS]
    assert targets[4] == [*ids("Still sunny."), EOS]
    assert targets[5] == [*ids("Weather"), EOS]
    assert torch.equal(predicted(model(template=False), batch), batch.mask[:, 1:])


def test_markers_are_neither_masked_nor_drawn() -> None:
    batch = TokenBatch.pad([checked_ids(conversation(), 1, MARKED, 96)[0]] * 200)
    masked, chosen = mask_tokens(batch, 320, 0.5, torch.Generator().manual_seed(0), model().config.special_tokens)
    markers = torch.isin(batch.ids, torch.tensor([INTERNAL, THINK, CALL, RESULT]))
    assert markers.any()
    assert not (chosen & markers).any()
    changed = masked[chosen & (masked != batch.ids)]
    assert not torch.isin(changed, torch.tensor([INTERNAL, THINK, CALL, RESULT])).any()


# Tokenizers without markers, and checkpoints


def test_without_markers_thoughts_are_left_out_and_the_rest_is_refused() -> None:
    system, first, tool, *_ = conversation().interactions
    assert interaction_tokens(system, PLAIN).ids == interaction_ids(ids(SYSTEM, PLAIN), [])
    thinking = Interaction("And now?", "Still.", extra={"think": "Hm."})
    assert interaction_tokens(thinking, PLAIN).ids == interaction_ids(ids("And now?", PLAIN), ids("Still.", PLAIN))
    for each, name in ((first, "tool call"), (tool, "tool result")):
        with pytest.raises(DataError, match=f"has a {name}, but the tokenizer has no marker for it: .*--template"):
            interaction_tokens(each, PLAIN)
    with pytest.raises(DataError, match="Conversation 'weather', turn 1: An interaction has a tool call"):
        episode_batch([conversation()], PLAIN, 96)
    with pytest.raises(DataError, match="need a tokenizer with the markers"):
        prompt_tokens("Hi.", PLAIN, think=True)


def test_a_tokenizer_has_all_markers_or_none(tmp_path: Path) -> None:
    MARKED.save(tmp_path)
    assert Tokenizer.load(tmp_path).template
    assert MARKED.decode([INTERNAL, THINK, CALL, RESULT]) == ""
    assert min(MARKED.encode("[T] [C]")) > RESULT
    content = json.loads((tmp_path / TOKENIZER_FILE).read_text())
    for token in content["added_tokens"]:
        token["content"] = token["content"].replace("[U]", "[V]")
    content["model"]["vocab"]["[V]"] = content["model"]["vocab"].pop("[U]")
    (tmp_path / TOKENIZER_FILE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"has the markers \[I\], \[T\], \[C\], \[U\] as ids 7 to 10, or none of them"):
        Tokenizer.load(tmp_path)


def test_nothing_differs_where_the_template_is_absent(tmp_path: Path) -> None:
    """Files as they were before there was a template; the sums were taken then."""
    texts = ["My dog is called Rex.", "What is my dog called?", "Your dog is called Rex.", "I do not know."]
    Tokenizer.train(texts, 290).save(tmp_path)
    assert not Tokenizer.load(tmp_path).template
    sums = {"tokenizer.json": hashlib.sha256((tmp_path / TOKENIZER_FILE).read_bytes()).hexdigest()}
    ReactiveTransformer.from_config(config(vocab_size=290)).save_pretrained(tmp_path / "model")
    sums["config.json"] = hashlib.sha256((tmp_path / "model" / "config.json").read_bytes()).hexdigest()
    row = {"id": "a", "query": "q", "answer": "a", "interactions": [{"query": "r", "answer": "b", "think": "hm"}], "x": 1}
    write_conversations(tmp_path / "rows.jsonl", [to_conversation(row, "a")])
    sums["rows.jsonl"] = hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest()
    assert {name: value[:16] for name, value in sums.items()} == UNCHANGED


UNCHANGED = {"tokenizer.json": "4fc6d56f9020c9df", "config.json": "59b57e311f726dbc", "rows.jsonl": "c248c029e5270fc4"}


def test_the_command_trains_a_tokenizer_with_markers(tmp_path: Path) -> None:
    write_conversations(tmp_path / "rows.jsonl", [conversation()])
    for name, options in (("marked", ["--template"]), ("plain", [])):
        out = CliRunner().invoke(app, ["data", "tokenizer", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / name), *options])
        assert out.exit_code == 0, out.output
        trained = Tokenizer.load(tmp_path / name)
        assert trained.template == bool(options)
        assert len(trained.encode("A tool knows.")) < 8


def test_model_and_tokenizer_agree_on_the_template(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "right", tokenizer=MARKED)
    assert load_checkpoint(tmp_path / "right")[0].config.template
    model(template=False).save_pretrained(tmp_path / "wrong", tokenizer=MARKED)
    with pytest.raises(CheckpointError, match="has markers of the interaction template, its model none"):
        load_checkpoint(tmp_path / "wrong")


def test_stages_begin_with_a_model_that_knows_the_markers(tmp_path: Path) -> None:
    write_conversations(tmp_path / "rows.jsonl", [to_conversation(ROW | {"id": f"{n}", "query": f"Rome {n}?"}, "") for n in range(20)])
    build(open_corpus(tmp_path / "rows.jsonl").choose("any"), tmp_path / "store", MARKED, Options())
    short = ["--set", "iterations=1", "--set", "validation_rows=2", "--set", "batch_tokens=100"]
    for name, data in (("rows", "rows.jsonl"), ("store", "store")):
        out = ["--data", str(tmp_path / data), "--out", str(tmp_path / name)]
        ended = CliRunner().invoke(app, ["stage", "sft", *out, *short])
        assert ended.exit_code == 0, ended.output
        assert load_checkpoint(tmp_path / name)[0].config.template
    split = open_corpus(tmp_path / "rows.jsonl").choose("any")
    assert opening._needs_markers(split, Options())
    with pytest.raises(CheckpointError, match="Only one of model and tokenizer has the markers"):
        Run(tmp_path / "run", "stage", "step", model(template=False), MARKED, Processes(), {})


def test_a_store_holds_the_same_tokens(tmp_path: Path) -> None:
    rows = [conversation(), to_conversation({"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d"}] * 4}, "plain")]
    write_conversations(tmp_path / "rows.jsonl", rows)
    build(open_corpus(tmp_path / "rows.jsonl").choose("any"), tmp_path / "store", MARKED, Options())
    source = ConversationStore(tmp_path / "store").source(0)
    batch = source.episodes(steps=4, strategy="multi-step", start=0, count=2, max_length=96)
    expected = episode_batch(source.take(steps=4, strategy="multi-step", start=0, count=2), MARKED, 96)
    for one, other in ((batch.turns.ids, expected.turns.ids), (batch.writes.ids, expected.writes.ids), (batch.answer, expected.answer)):
        assert torch.equal(one, other)


# Generation and sessions


@pytest.mark.parametrize("greedy", [True, False])
def test_a_row_that_thinks_says_one_answer_marker_and_ends_behind_it(greedy: bool) -> None:
    subject = model()
    prompts = TokenBatch.pad([prompt_tokens(text, MARKED, think=think) for text in ("sunny", "Rome?") for think in (True, False)] * 6)
    stm = subject.init_memory(len(prompts.ids), torch.Generator().manual_seed(0))
    draws = None if greedy else [torch.Generator().manual_seed(seed) for seed in range(len(prompts.ids))]
    found = generate(subject, prompts, stm, max_new_tokens=30, generators=draws, calls=True)
    for row, (said, mask) in enumerate(zip(found.ids, found.mask, strict=True)):
        tokens = said[mask].tolist()
        markers = [token for token in tokens if token in range(11) and token != EOS]
        assert markers in ([[ANSWER], [ANSWER, CALL], []] if row % 2 == 0 else [[CALL], []]), markers
        if EOS in tokens:
            assert tokens.index(EOS) == len(tokens) - 1
            assert (ANSWER in tokens) == (row % 2 == 0)
    alone = generate(
        subject, TokenBatch.pad([prompts.rows()[0]]), stm[:, :1], max_new_tokens=30, generators=draws and [torch.Generator().manual_seed(0)]
    )
    if greedy:
        assert not set(alone.ids[alone.mask].tolist()) & {CALL}


def test_log_probabilities_are_those_of_what_was_possible() -> None:
    subject = model()
    prompt = prompt_tokens("sunny", MARKED, think=True)
    stm = subject.init_memory(1, torch.Generator().manual_seed(0))
    found = generate(subject, TokenBatch.pad([prompt]), stm, max_new_tokens=20, generators=[torch.Generator().manual_seed(3)])
    said = found.ids[0][found.mask[0]].tolist()
    whole = TokenBatch.pad([[*prompt, *said]])
    logits = subject.decode(whole.ids, whole.mask, stm)[0, len(prompt) - 1 : -1]
    thinking = True
    for at, token in enumerate(said):
        possible = [each for each in range(320) if each > RESULT or each == (ANSWER if thinking else EOS)]
        expected = logits.detach()[at, possible].log_softmax(-1)[possible.index(token)]
        assert float(found.log_probs[0, at]) == pytest.approx(float(expected), abs=1e-9)
        thinking = thinking and token != ANSWER


def test_without_the_template_no_marker_is_special() -> None:
    subject = model(template=False)
    with pytest.raises(ModelError, match="Tool calls need a model"):
        generate(subject, TokenBatch.pad([[BOS, QUERY, ANSWER]]), subject.init_memory(1), max_new_tokens=2, calls=True)
    with torch.no_grad():
        subject.decoder.head.bias[THINK] += 50
    found = generate(subject, TokenBatch.pad([[BOS, QUERY, THINK]]), subject.init_memory(1), max_new_tokens=3)
    assert found.ids[0].tolist() == [THINK] * 3


def test_a_session_streams_segments_and_writes_all_of_them() -> None:
    subject = model()
    chat = ReactiveSession(subject, MARKED, system=SYSTEM)
    stm = subject.init_memory(1, torch.Generator().manual_seed(0))
    system = TokenBatch.pad([[BOS, INTERNAL, *ids(SYSTEM), EOS]])
    before = subject.write_memory(stm, system.ids, system.mask)
    assert torch.equal(chat.stm, before)
    *tokens, end, _ = chat.ask("Rome?", think=True, calls=True, max_new_tokens=30, temperature=1.0)
    assert isinstance(end, AnswerEnd)
    said = split_said(end.ids, think=True)
    texts = {key: MARKED.decode(each) for key, each in said.items()}
    assert (end.thought, end.text, end.tool_call) == (texts["think"], texts["answer"], texts["tool_call"])
    for segment, text in (("think", end.thought), ("answer", end.text), ("tool_call", end.tool_call)):
        assert "".join(each.text for each in tokens if isinstance(each, Token) and each.segment == segment) == text
    written = TokenBatch.pad([[BOS, QUERY, *ids("Rome?"), THINK, *end.ids, EOS]])
    assert torch.equal(chat.stm, subject.write_memory(before, written.ids, written.mask).detach())


def test_chat_shows_thoughts_and_calls(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "model", tokenizer=MARKED)
    arguments = ["chat", str(tmp_path / "model"), "--think", "--tools", "--system", SYSTEM, "--temperature", "1"]
    out = CliRunner().invoke(app, arguments, input="Rome?\n/result sunny\n/nothing\n")
    assert out.exit_code == 0, out.output
    assert out.output.count("thinks> ") == 2
    assert "/result" in out.output
    assert "Unknown command '/nothing'" in out.output
    model(template=False).save_pretrained(tmp_path / "plain", tokenizer=PLAIN)
    refused = CliRunner().invoke(app, ["chat", str(tmp_path / "plain"), "--think"], input="")
    assert refused.exit_code == 2
    assert "need a tokenizer with the markers of the template" in refused.stderr


# The environment


def env(think: int, **options: Any) -> ConversationVectorEnv:
    given = {"memory": NoMemory(), "reward": load_reward("retention"), "codec": MARKED, **options}
    return ConversationVectorEnv([conversation()], max_think_tokens=think, **given)


def action(*said: int) -> Action:
    batch = TokenBatch.pad([list(said)])
    return Action(batch.ids, batch.mask)


def test_the_environment_plays_the_template() -> None:
    played = env(0)
    observation, info = played.reset(seed=0)
    assert info["written"][0] == [BOS, INTERNAL, *ids(SYSTEM), EOS]
    prompts = []
    written = []
    for answer in ("Rome", "sunny", "I look", "up"):
        prompts.append(observation["ids"][0][: observation["length"][0]].tolist())
        observation, *_, info = played.step(action(*ids(answer), EOS))
        written.append(info["written"][0])
    heard = [interaction_tokens(each, MARKED).heard for each in conversation().follow_ups]
    assert prompts == [[*each, ANSWER] for each in heard]
    assert written[:3] == [[*each, *ids(answer), EOS] for each, answer in zip(prompts, ("Rome", "sunny", "I look"), strict=False)]
    turn = info["turns"][0]
    assert [each.query for each in turn.history] == [SYSTEM, "Weather in Rome?", "sunny", "Be brief.\nWhere was that?"]
    record = TurnRecord.of(turn, retention=None, score=played.score([turn])[0]).to_json()
    assert "framed" not in record
    assert [each.get("framed", ())[1:2] for each in record["history"]] == [(INTERNAL,), (QUERY,), (RESULT,), (INTERNAL,)]


def test_under_teacher_forcing_thoughts_and_calls_of_the_reference_are_written() -> None:
    played = env(0, teacher_forcing=True)
    played.reset(seed=0)
    *_, info = played.step(action(*ids("Rome"), EOS))
    assert info["written"][0] == interaction_tokens(conversation().follow_ups[0], MARKED).ids


def test_thoughts_are_written_but_are_no_answer() -> None:
    played = env(8)
    observation, _ = played.reset(seed=0)
    assert observation["ids"][0][: observation["length"][0]].tolist()[-1] == THINK
    thought, answer = ids("A tool knows."), ids("sunny")
    *_, info = played.step(action(*thought, ANSWER, *answer, EOS))
    turn = info["turns"][0]
    assert (turn.answer, turn.thought, turn.thought_ids) == ("sunny", MARKED.decode(thought[:8]), tuple(thought[:8]))
    record = TurnRecord.of(turn, retention=None, score=played.score([turn])[0])
    assert record.to_json()["thought"] == turn.thought
    assert choose_episodes([replace(record, retention=0.0)])[0].turns[0].thought == turn.thought
    assert info["written"][0] == [BOS, QUERY, *ids("Weather in Rome?"), THINK, *thought[:8], ANSWER, *answer, EOS]
    *_, info = played.step(action(*thought, EOS))
    assert info["turns"][0].answer == ""
    assert played.single_action_space["ids"].shape == (played.limits.answer + 1 + 9,)


@pytest.mark.parametrize("think", [0, 8])
def test_signals_teach_behind_the_prompt_that_was_played_and_read_what_was_written(think: int) -> None:
    network, chosen = model().eval(), [conversation()]
    rollout = collect(env(think, memory=StmBackend(network)), ModelPolicy(network, 5), chosen, seed=0, iteration=0)
    grid = rollout.turn_grid()
    signals = signals_of(reference=1.0, teacher={"coefficient": 1.0, "options": {"reads": "last"}})
    lessons = signals.lessons(Material(rollout, grid, chosen, MARKED, network.config.max_length, 0))
    for number, (turn,) in enumerate(grid):
        assert turn is not None
        [said], [read] = (TokenBatch(each.tokens.ids[number, 0], each.tokens.mask[number, 0]).rows() for each in lessons.values())
        [played] = TokenBatch(rollout.turns.ids[number], rollout.turns.mask[number]).rows()
        prompt = played[: played.index(THINK if think else ANSWER) + 1]
        own = chosen[0].follow_ups[number]
        taught = [*ids(own.extra.get("think", "")), ANSWER, *ids(own.answer)] if think else ids(own.answer)
        assert said == [*prompt, *taught, EOS]
        assert lessons["reference"].answer[number].sum() == len(taught) + 1
        [written] = TokenBatch(rollout.writes.ids[number], rollout.writes.mask[number]).rows()
        assert read == written


def test_thoughts_are_sampled_scored_and_replayed_as_answers_are() -> None:
    network = model().eval()
    played = env(8, memory=StmBackend(network))
    rollout = collect(played, ModelPolicy(network, played.limits.said), [conversation()], seed=0, iteration=0)
    replayed = policy_log_probs(network, rollout, AlgorithmConfig())
    torch.testing.assert_close(replayed, rollout.sampled_log_probs)
    turns = [turn for (turn,) in rollout.turn_grid() if turn is not None]
    assert any(turn.thought_ids for turn in turns)
    for number, turn in enumerate(turns):
        [row] = TokenBatch(rollout.turns.ids[number], rollout.turns.mask[number]).rows()
        # Every sampled token is one of the policy's: what was thought, `[A]`, the answer and `[EOS]`.
        assert rollout.answer[number].sum() == len(row) - len(turn.prompt) == (replayed[number] != 0).sum()
        if number + 1 < len(rollout.writes.ids) and ANSWER in row and EOS in row:
            [written] = TokenBatch(rollout.writes.ids[number + 1], rollout.writes.mask[number + 1]).rows()
            assert written == [*turn.prompt[:-1], *([THINK, *turn.thought_ids] if turn.thought_ids else []), ANSWER, *turn.answer_ids, EOS]


def test_what_a_thought_names_is_as_fresh_as_what_an_answer_names() -> None:
    asking = {"query": "Rome?", "answer": "Yes.", "asks": ["rome.weather"]}
    row = {
        **{"id": "fresh", "query": "Rome is sunny.", "answer": "Okay.", "facts": [{"key": "rome.weather", "value": "sunny"}], "asks": []},
        "interactions": [{"query": "And now?", "think": "Rome is sunny.", "answer": "Still.", "asks": []}, asking, asking],
    }
    [told, *asked] = [to_conversation(row, "fresh")]
    assert not asked
    for thinks, distances in ((True, [None, 1, 2]), (False, [None, 2, 3])):
        played = ConversationVectorEnv(
            [told], memory=NoMemory(), max_think_tokens=16, reward=load_reward("retention"), codec=MARKED, values={"weather": ("sunny",)}
        )
        played.reset(seed=0)
        found = []
        for _ in range(3):
            *_, info = played.step(action(*(ids("Rome is sunny.") if thinks and not found else []), ANSWER, *ids("Still."), EOS))
            found.append(info["turns"][0].distance)
        assert found == distances
    assert data_stats([told]).distances == {1: 1, 2: 1}
    assert data_stats(
        [to_conversation({**row, "interactions": [{**row["interactions"][0], "think": "Well."}, asking, asking]}, "x")]
    ).distances == {**{2: 1, 3: 1}}


def test_pairs_of_a_preference_have_the_same_thought() -> None:
    told = {"facts": [{"key": "rome.weather", "value": "sunny"}, {"key": "oslo.weather", "value": "rainy"}], "asks": []}
    asking = {"query": "Rome?", "think": "Look it up.", "answer": "It is sunny.", "asks": ["rome.weather"]}
    row = {"query": "Rome is sunny, Oslo is rainy.", "answer": "Okay.", **told, "interactions": [asking, asking]}
    network, chosen = model().eval(), [to_conversation(row, "pairs")]
    played = ConversationVectorEnv(
        chosen,
        max_think_tokens=16,
        memory=StmBackend(network),
        reward=load_reward("retention"),
        codec=MARKED,
        values={"weather": ("sunny",)},
    )
    rollout = collect(played, ModelPolicy(network, 5), chosen, seed=0, iteration=0)
    signals = signals_of(preference={"coefficient": 1.0, "options": {"pairs": ["rivals"]}})
    lesson = signals.lessons(Material(rollout, rollout.turn_grid(), chosen, MARKED, 64, 0))["preference"]
    pair = TokenBatch(lesson.tokens.ids[0, 0], lesson.tokens.mask[0, 0]).rows()
    asked = prompt_tokens("Rome?", MARKED, think=True)
    assert pair == [[*asked, *ids("Look it up."), ANSWER, *ids(f"It is {weather}."), EOS] for weather in ("sunny", "rainy")]


@pytest.mark.parametrize("think", [0, 8])
def test_text_players_read_transcripts_of_the_template_and_answer_without_a_thought(think: int) -> None:
    class Reader(TextPolicy):
        def answer(self, dialogues: Any, generators: Any) -> list[str]:
            read.extend(dialogues)
            return ["sunny"] * len(dialogues)

    for player in (Reader(MARKED), None):
        read: list[Dialogue] = []
        played = env(think, memory=TranscriptMemory())
        policy = player or Oracle(played)
        observation, _ = played.reset(seed=0)
        answers = []
        while played.active.any():
            observation, *_, info = played.step(policy.act(token_batch(observation), played.memory, None))
            answers.append(info["turns"][0].answer)
        assert answers == [each.answer if player is None else "sunny" for each in conversation().follow_ups]
        if player is not None:
            assert [each.query for each in read] == ["Weather in Rome?", "sunny", "Be brief. Where was that?", "And now?"]
            assert read[2].history == ((SYSTEM, ""), ("Weather in Rome?", "sunny"), ("sunny", "sunny"))
            messages = read[1].messages("Answer.")
            assert [(each["role"], each["content"]) for each in messages] == [
                *(("system", f"Answer.\n{SYSTEM}"), ("user", "Weather in Rome?"), ("assistant", "sunny"), ("user", "sunny")),
            ]


def test_what_was_thought_is_no_part_of_a_transcript() -> None:
    said = interaction_tokens(conversation().follow_ups[0], MARKED).ids
    heard, parts = split_written(said)
    assert MARKED.decode(heard) == "Weather in Rome?"
    assert {key: MARKED.decode(each) for key, each in parts.items()} == {
        **{"think": "A tool knows.", "answer": "I look it up.", "tool_call": "weather(Rome)"},
    }


def test_a_text_is_an_answer_also_where_the_model_may_think() -> None:
    single = ConversationEnv([conversation()], memory=NoMemory(), reward=load_reward("retention"), codec=MARKED, max_think_tokens=8)
    query, _ = single.reset(seed=0)
    assert query == "Weather in Rome?"
    *_, info = single.step("sunny")
    assert info["turn_data"].answer == "sunny"


def test_an_environment_that_trains_its_tokenizer_gives_it_the_markers_that_the_rows_need() -> None:
    made = make_vector_env(1, conversations=[ROW])
    _, info = made.reset(seed=0)
    assert info["written"][0][:2] == [BOS, INTERNAL]
    assert not make_vector_env(
        1, conversations=[{"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d"}]}]
    ).codec.template


def test_thinking_needs_markers() -> None:
    with pytest.raises(ConfigError, match="max_think_tokens needs a tokenizer with the markers"):
        ConversationVectorEnv([conversation()], memory=None, reward=load_reward("retention"), codec=PLAIN, max_think_tokens=4)


def test_a_training_whose_model_cannot_think_is_refused_before_it_begins(tmp_path: Path) -> None:
    model(template=False).save_pretrained(tmp_path / "model", tokenizer=PLAIN)
    refused = CliRunner().invoke(
        app, ["train", "--from", str(tmp_path / "model"), "--set", "max_think_tokens=4", "--out", str(tmp_path / "run"), "--dry-run"]
    )
    assert refused.exit_code == 2
    assert "max_think_tokens needs a tokenizer with the markers" in refused.stderr
    refused = CliRunner().invoke(app, ["quickstart", "--budget", "tiny", "--set", "mrl.max_think_tokens=4", "--out", str(tmp_path / "run")])
    assert refused.exit_code == 2
    assert "max_think_tokens needs a tokenizer with the markers" in refused.stderr
    assert "Stage pretrain" not in refused.stdout


# Chats of other tools


def test_chats_become_segments(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "A tool knows."},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "<think>Easy.</think>\nIt is sunny."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": "Welcome."},
    ]
    shared = [("system", SYSTEM), ("human", "Rome?"), ("function_call", "weather(Rome)"), ("observation", "sunny"), ("gpt", "Sunny.")]
    rows = [{"messages": messages}, {"conversations": [{"from": who, "value": text} for who, text in shared]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = import_chat(tmp_path / "chats.jsonl").conversations
    assert first.first == second.first == system_interaction(SYSTEM)
    called = '{"name": "weather", "arguments": {"city": "Rome"}}'
    assert [(each.query, each.answer, dict(each.extra)) for each in first.follow_ups] == [
        ("Weather in Rome?", "", {"think": "A tool knows.", "tool_call": called}),
        ("", "It is sunny.", {"think": "Easy.", "tool_result": "sunny"}),
        ("Thanks.", "Welcome.", {"internal": "Be brief."}),
    ]
    assert [texts_of(each) for each in second.follow_ups] == [["Rome?", "", "weather(Rome)"], ["", "Sunny.", "sunny"]]
    write_conversations(tmp_path / "rows.jsonl", [first, second])
    assert read_conversations(tmp_path / "rows.jsonl") == [first, second]
