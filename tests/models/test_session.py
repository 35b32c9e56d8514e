from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import rxrl
from rxrl.cli.main import app
from rxrl.data import Tokenizer
from rxrl.errors import CheckpointError, ModelError, WriteError
from rxrl.memory import drift
from rxrl.models import (
    AnswerEnd,
    AsyncReactiveSession,
    MemoryUpdated,
    MemoryUpdating,
    ReactiveSession,
    ReactiveTransformer,
    Step,
    Token,
)
from rxrl.models.generation import session
from rxrl.models.generation.session import Event
from rxrl.types import EOS, TokenBatch, interaction_ids, prompt_ids
from tests.models.small import config, model_of

TEXTS = ["My dog is called Rex.", "What is my dog called?", "Your dog is called Rex.", "I do not know."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 290)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ReactiveTransformer:
    return model_of(config(vocab_size=290, max_length=40), ends=2.0)


def written(model, stm, query_ids, answer_ids):
    batch = TokenBatch.pad([interaction_ids(query_ids, answer_ids)])
    return model.write_memory(stm, batch.ids, batch.mask)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_an_answer_streams_and_then_the_memory_is_updated(model, tokenizer, temperature: float):
    chat = rxrl.ReactiveSession(model, tokenizer, generator=torch.Generator().manual_seed(3))
    stm = chat.stm
    draws = torch.Generator()
    draws.set_state(chat._generator.get_state())
    *tokens, end, updated = chat.ask(TEXTS[0], temperature=temperature, max_new_tokens=12)

    prompt = TokenBatch.pad([prompt_ids(tokenizer.encode(TEXTS[0]))])
    expected = model.generate(prompt, stm, max_new_tokens=12, generators=[draws] if temperature else None, temperature=temperature or 1.0)
    assert all(isinstance(each, Token) for each in tokens)
    assert [each.id for each in tokens] == expected.ids[0].tolist()
    assert [each.log_prob for each in tokens] == pytest.approx(expected.log_probs[0].tolist())
    answer = [each.id for each in tokens if each.id != EOS]
    assert end == AnswerEnd(tokenizer.decode(answer), tuple(answer))
    assert "".join(each.text for each in tokens) == end.text
    assert isinstance(updated, MemoryUpdated)
    torch.testing.assert_close(chat.stm, written(model, stm, tokenizer.encode(TEXTS[0]), answer))
    assert updated.drift == pytest.approx(float(drift(stm, chat.stm)))
    assert updated.seconds > 0


def test_an_abandoned_answer_leaves_the_memory_as_it_was(model, tokenizer):
    chat = ReactiveSession(model, tokenizer)
    before = chat.stm
    next(iter(chat.ask(TEXTS[0])))
    assert torch.equal(chat.stm, before)
    for event in chat.ask(TEXTS[0]):
        if isinstance(event, AnswerEnd):
            break
    assert torch.equal(chat.stm, before)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("change", ["reset", "load"])
def test_an_answer_is_not_written_into_another_conversation(model, tokenizer, tmp_path: Path, change: str, background: bool):
    chat = ReactiveSession(model, tokenizer, background=background)
    chat.save(tmp_path / "memory")
    answer = chat.ask(TEXTS[0], max_new_tokens=4)
    assert isinstance(next(answer), Token)
    chat.reset() if change == "reset" else chat.load(tmp_path / "memory")
    fresh = chat.stm.clone()
    with pytest.raises(ModelError, match="is not written"):
        list(answer)
    assert torch.equal(chat.stm, fresh)
    list(chat.ask(TEXTS[0], max_new_tokens=4))
    assert not torch.equal(chat.stm, fresh)


def test_truncation_alone_samples_and_goes_with_no_greedy_answer(model, tokenizer):
    def answer(**options):
        chat = ReactiveSession(model, tokenizer, generator=torch.Generator().manual_seed(3))
        return next(event.ids for event in chat.ask(TEXTS[0], max_new_tokens=12, **options) if isinstance(event, AnswerEnd))

    assert answer(top_k=50) == answer(top_k=50, temperature=1.0) != answer()
    for options in ({"temperature": 0.0, "top_k": 5}, {"top_p": 2.0}, {"top_p": float("nan")}):
        with pytest.raises(ModelError, match="top_"):
            answer(**options)


def test_memory_is_saved_to_files_only(model, tokenizer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    chat = ReactiveSession(model, tokenizer)
    for path in (".", "/", tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(WriteError, match="could not be written"):
            chat.save(path)


def test_an_interrupted_wait_forgets_nothing(model, tokenizer, monkeypatch):
    chat = ReactiveSession(model, tokenizer, background=True)
    go, _ = slowed(monkeypatch, model)
    list(chat.ask(TEXTS[0], max_new_tokens=4))
    before = chat._stm
    with monkeypatch.context() as patch:
        patch.setattr(type(chat._pending), "result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            chat.wait()
    go.set()
    assert not torch.equal(chat.stm, before)


def test_characters_of_several_bytes_come_whole(model, tokenizer, monkeypatch):
    text = "é 日本 🙂 ok"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)

    def stream(ids):
        def steps(*_, **__):
            for at, token in enumerate(ids):
                one = torch.tensor([token])
                yield Step(one, one, torch.zeros(1), torch.zeros(1), torch.tensor([at == len(ids) - 1]), 1)

        return steps

    for tail in ([EOS], []):
        monkeypatch.setattr(session, "generate_steps", stream(ids + tail))
        chat = ReactiveSession(model, tokenizer)
        stm = chat.stm
        *tokens, end, _ = chat.ask("hi")
        pieces = [event.text for event in tokens]
        assert [event.id for event in tokens] == ids + tail
        assert end == AnswerEnd(text, tuple(ids))
        torch.testing.assert_close(chat.stm, written(model, stm, tokenizer.encode("hi"), ids))
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    # Bytes that never become a character are shown as such, at the end at the latest.
    monkeypatch.setattr(session, "generate_steps", stream([*ids[:1], EOS]))
    *tokens, end, _ = ReactiveSession(model, tokenizer).ask("hi")
    assert "".join(event.text for event in tokens) == end.text == tokenizer.decode(ids[:1])


def test_a_system_prompt_is_an_initial_interaction_and_survives_a_reset(model, tokenizer):
    plain = ReactiveSession(model, tokenizer, generator=torch.Generator().manual_seed(1))
    chat = ReactiveSession(model, tokenizer, generator=torch.Generator().manual_seed(1), system=TEXTS[3])
    torch.testing.assert_close(chat.stm, written(model, plain.stm, tokenizer.encode(TEXTS[3]), []))
    list(chat.ask(TEXTS[0]))
    plain.reset()
    chat.reset()
    torch.testing.assert_close(chat.stm, written(model, plain.stm, tokenizer.encode(TEXTS[3]), []))


def test_a_saved_memory_goes_on_exactly(model, tokenizer, tmp_path: Path):
    one = ReactiveSession(model, tokenizer)
    list(one.ask(TEXTS[0]))
    one.save(tmp_path / "new" / "memory.safetensors")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["memory.safetensors"]
    other = ReactiveSession(model, tokenizer, generator=torch.Generator().manual_seed(9))
    other.load(tmp_path / "new" / "memory.safetensors")
    assert torch.equal(one.stm, other.stm)
    assert list(one.ask(TEXTS[1]))[:-1] == list(other.ask(TEXTS[1]))[:-1]
    third = ReactiveSession(model, tokenizer, stm=other.stm)
    assert torch.equal(third.stm, other.stm)


def test_wrong_memories_are_refused(model, tokenizer, tmp_path: Path):
    chat = ReactiveSession(model, tokenizer)
    with pytest.raises(CheckpointError, match="No memory can be read from"):
        chat.load(tmp_path / "nowhere")
    (tmp_path / "broken").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"broken cannot be read as safetensors .* give a file that `save` wrote"):
        chat.load(tmp_path / "broken")
    save_file({"stm": torch.zeros(2, 1, 3, 4)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"a memory of shape \[2, 1, 5, 16\], but holds one of shape \[2, 1, 3, 4\]"):
        chat.load(tmp_path / "other")
    save_file({"weights": torch.zeros(2)}, tmp_path / "none")
    with pytest.raises(CheckpointError, match="but holds none"):
        chat.load(tmp_path / "none")
    with pytest.raises(ModelError, match=r"shape \[2, 1, 5, 16\], got \[2, 2, 5, 16\]"):
        ReactiveSession(model, tokenizer, stm=torch.zeros(2, 2, 5, 16))


def test_a_query_that_is_too_long_is_refused_before_anything_happens(model, tokenizer):
    chat = ReactiveSession(model, tokenizer)
    before = chat.stm
    with pytest.raises(ModelError, match="leaves no room for an answer"):
        chat.ask("x y " * 40)
    assert torch.equal(chat.stm, before)


@pytest.fixture(scope="module")
def checkpoint(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def talk(checkpoint: Path, lines: list[str], *options: str):
    return CliRunner().invoke(app, ["chat", str(checkpoint), *options], input="\n".join(lines))


def test_chat_over_a_pipe(model, tokenizer, checkpoint):
    result = talk(checkpoint, [TEXTS[0], "", TEXTS[1], "/reset", TEXTS[1], "/quit", "never read"], "--system", TEXTS[3])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert sum(line.startswith("[memory updated]") for line in lines) == 3
    assert [line for line in lines if line.startswith("you> ")] == [
        f"you> {line}" for line in (TEXTS[0], TEXTS[1], "/reset", TEXTS[1], "/quit")
    ]
    assert "[memory reset]" in lines
    assert sum(line.startswith("model> ") for line in lines) == 3


def test_chat_keeps_its_memory_in_a_file(checkpoint, tmp_path: Path):
    memory = tmp_path / "memory.safetensors"
    whole = talk(checkpoint, [TEXTS[0], TEXTS[1]], "--greedy")
    first = talk(checkpoint, [TEXTS[0]], "--save-memory", str(memory))
    second = talk(checkpoint, [TEXTS[1]], "--load-memory", str(memory))
    assert first.exit_code == second.exit_code == 0
    answers = [[line for line in each.stdout.splitlines() if line.startswith("model> ")] for each in (whole, first, second)]
    assert answers[0] == answers[1] + answers[2]
    assert f"[memory saved to {memory}]" in first.stdout


def test_chat_samples_the_same_with_the_same_seed(checkpoint):
    one, same, other = (talk(checkpoint, [TEXTS[0]], "--temperature", "3", "--seed", seed).stdout.splitlines()[2] for seed in "112")
    assert one == same != other


def test_chat_says_what_is_wrong_and_goes_on(checkpoint, tmp_path: Path):
    result = talk(checkpoint, ["/forget", "/save", "x y " * 40, f"/save {tmp_path / 'm'}", "hi"])
    assert result.exit_code == 0
    assert "Unknown command '/forget'" in result.stderr
    assert "/save needs a file" in result.stderr
    assert "leaves no room for an answer" in result.stderr
    assert (tmp_path / "m").is_file()
    assert result.stdout.count("[memory updated]") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--greedy", "--temperature", "1"], "--greedy takes the likeliest token"),
        (["--top-p", "0"], "top_p must be above 0"),
        (["--top-p", "90"], "top_p must be above 0 and at most 1"),
        (["--temperature", "0", "--top-k", "5"], "goes with neither top_k nor top_p"),
        (["--load-memory", "nowhere"], "No memory can be read from nowhere"),
    ],
)
def test_chat_refuses_options_that_make_no_sense(checkpoint, options, message):
    result = talk(checkpoint, ["hi"], *options)
    assert result.exit_code == 2
    assert message in result.stderr


def slowed(monkeypatch, model) -> tuple[threading.Event, list[str]]:
    """Makes writes of this model wait for a sign; returns the sign and the threads that wrote."""
    go, threads = threading.Event(), []
    write = model.write_memory

    def waiting(*arguments):
        threads.append(threading.current_thread().name)
        assert go.wait(20)
        return write(*arguments)

    monkeypatch.setattr(model, "write_memory", waiting)
    return go, threads


def test_memory_is_written_in_the_background_and_the_next_query_waits_for_it(model, tokenizer, monkeypatch):
    plain = ReactiveSession(model, tokenizer)
    turns = [list(plain.ask(text)) for text in TEXTS[:2]]
    chat = ReactiveSession(model, tokenizer, background=True)
    assert chat.wait() is None
    go, threads = slowed(monkeypatch, model)
    first = list(chat.ask(TEXTS[0]))
    assert first == [*turns[0][:-1], MemoryUpdating()], "the answer is there while the write has not begun to end"
    assert not go.is_set()
    threading.Timer(0.05, go.set).start()
    assert list(chat.ask(TEXTS[1])) == [*turns[1][:-1], MemoryUpdating()]
    assert go.is_set()
    updated = chat.wait()
    assert updated is not None
    assert updated.drift == turns[1][-1].drift
    assert chat.wait() is None
    assert torch.equal(chat.stm, plain.stm)
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


def test_whatever_touches_the_memory_waits_for_the_write(model, tokenizer, monkeypatch, tmp_path: Path):
    plain = ReactiveSession(model, tokenizer)
    list(plain.ask(TEXTS[0]))
    plain.save(tmp_path / "plain")
    plain.write(TEXTS[1], TEXTS[2])
    chat = ReactiveSession(model, tokenizer, background=True)
    go, _ = slowed(monkeypatch, model)
    list(chat.ask(TEXTS[0]))
    threading.Timer(0.05, go.set).start()
    chat.save(tmp_path / "memory")
    assert (tmp_path / "memory").read_bytes() == (tmp_path / "plain").read_bytes()
    chat.write(TEXTS[1], TEXTS[2])
    assert torch.equal(chat.stm, plain.stm)
    list(chat.ask(TEXTS[0]))
    chat.load(tmp_path / "plain")
    other = ReactiveSession(model, tokenizer)
    other.load(tmp_path / "plain")
    assert torch.equal(chat.stm, other.stm)
    list(chat.ask(TEXTS[0]))
    chat.reset()
    assert chat.wait() is None


def test_an_error_in_the_background_is_raised_once_and_the_memory_is_as_it_was(model, tokenizer, monkeypatch):
    chat = ReactiveSession(model, tokenizer, background=True)
    before = chat.stm
    with monkeypatch.context() as patch:
        patch.setattr(model, "write_memory", lambda *_: (_ for _ in ()).throw(ModelError("no room")))
        list(chat.ask(TEXTS[0]))
        with pytest.raises(ModelError, match="no room"):
            chat.ask(TEXTS[1])
    assert torch.equal(chat.stm, before)
    assert isinstance(list(chat.ask(TEXTS[1]))[-1], MemoryUpdating)
    assert not torch.equal(chat.stm, before)


def test_times_of_an_answer_are_told(model, tokenizer):
    *_, end, _ = ReactiveSession(model, tokenizer).ask(TEXTS[0])
    assert 0 < end.first_token_seconds <= end.seconds


@pytest.mark.parametrize("background", [False, True])
def test_asyncio_programs_get_the_same_and_stay_free(model, tokenizer, monkeypatch, tmp_path: Path, background: bool):
    plain = ReactiveSession(model, tokenizer, system=TEXTS[3])
    expected = [event for text in TEXTS[:2] for event in plain.ask(text)]
    go, threads = slowed(monkeypatch, model)

    async def talk() -> list[Event]:
        found = []
        go.set()
        async with AsyncReactiveSession(ReactiveSession(model, tokenizer, system=TEXTS[3], background=background)) as chat:
            go.clear()
            threads.clear()
            asyncio.get_running_loop().call_later(0.05, go.set)  # only a loop that is free sets it
            for text in TEXTS[:2]:
                found += [event async for event in chat.ask(text)]
            assert (await chat.wait() is None) is not background
            await chat.save(tmp_path / "memory")
            await chat.reset()
            await chat.load(tmp_path / "memory")
            await chat.write(TEXTS[1], TEXTS[2])
            with pytest.raises(ModelError, match="leaves no room"):
                await anext(chat.ask("x y " * 40))
        return found

    found = asyncio.run(talk())
    told = [event for event in found if isinstance(event, Token | AnswerEnd)]
    assert told == [event for event in expected if isinstance(event, Token | AnswerEnd)]
    assert sum(isinstance(event, MemoryUpdating if background else MemoryUpdated) for event in found) == 2
    assert threading.current_thread().name not in threads
    saved = ReactiveSession(model, tokenizer)
    saved.load(tmp_path / "memory")
    assert torch.equal(saved.stm, plain.stm)


def test_chat_at_a_terminal_writes_memory_while_somebody_types(checkpoint, monkeypatch):
    for module in ("chat", "person"):
        monkeypatch.setattr(f"rxrl.cli.{module}.at_terminal", lambda: True)
    result = talk(checkpoint, TEXTS[:2])
    assert result.exit_code == 0, result.output
    said = re.findall(r"you>|model>|\[first token\]|\[memory updated\]", result.stdout)
    turn = ["you>", "model>", "[first token]"]
    # What came of a write is told when the next line is there.
    assert said == [*turn, "you>", "[memory updated]", *turn[1:], "you>", "[memory updated]"]


def test_a_write_that_failed_is_forgotten_with_the_conversation(model, tokenizer, tmp_path, monkeypatch):
    chat = ReactiveSession(model, tokenizer, background=True)
    chat.save(tmp_path / "memory.safetensors")

    def fails(*_):
        raise RuntimeError("boom")

    for forget in (chat.reset, lambda: chat.load(tmp_path / "memory.safetensors")):
        with monkeypatch.context() as patch:
            patch.setattr(ReactiveTransformer, "write_memory", fails)
            list(chat.ask(TEXTS[0], max_new_tokens=2))
            chat._pending.exception()
        forget()
        assert chat.wait() is None
        assert chat.stm.isfinite().all()


@pytest.mark.parametrize("broken", [lambda stm: stm.fill_(float("nan")), lambda stm: stm.to(torch.int64)])
def test_a_memory_that_holds_no_finite_numbers_is_refused(model, tokenizer, tmp_path, broken):
    chat = ReactiveSession(model, tokenizer)
    before = chat.stm.clone()
    save_file({session._MEMORY_NAME: broken(before.clone())}, tmp_path / "memory.safetensors")
    with pytest.raises(CheckpointError, match="no finite number"):
        chat.load(tmp_path / "memory.safetensors")
    assert torch.equal(chat.stm, before)


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), 1e-40, -1.0])
def test_temperatures_that_cannot_be_sampled_with_are_refused(model, tokenizer, temperature):
    with pytest.raises(ModelError, match="temperature must be a number of at least"):
        ReactiveSession(model, tokenizer).ask(TEXTS[0], temperature=temperature)


def test_a_conversation_that_is_interrupted_at_the_prompt_is_saved(checkpoint, monkeypatch, tmp_path: Path):
    lines = iter([TEXTS[0]])

    def typed(_):
        try:
            return next(lines)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("builtins.input", typed)
    CliRunner().invoke(app, ["chat", str(checkpoint), "--save-memory", str(tmp_path / "memory")])
    assert (tmp_path / "memory").is_file()


def test_input_that_is_no_text_is_said(checkpoint):
    result = CliRunner().invoke(app, ["chat", str(checkpoint)], input=b"a\xffb\n")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_a_closed_asyncio_conversation_says_so(model, tokenizer):
    async def closed():
        chat = AsyncReactiveSession(ReactiveSession(model, tokenizer))
        await chat.close()
        await chat.close()
        await chat.wait()

    with pytest.raises(ModelError, match="was closed"):
        asyncio.run(closed())
