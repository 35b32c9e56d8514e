"""`complete` and `fill-mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ModelError
from rxrl.models import ReactiveTransformer
from rxrl.models.generation.completion import complete, fill_masks
from rxrl.models.generation.session import AnswerEnd, Token
from rxrl.seeding import generator
from rxrl.types import BOS, EOS, MASK, SPECIAL_TOKENS, TokenBatch
from tests.cli.test_bad_input import refused
from tests.models.small import config, model_of

TEXTS = ["My dog is called Rex. He sleeps.", "My cat is called Tom; she's here."] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ReactiveTransformer:
    return model_of(config(reads_memory=True, vocab_size=tokenizer.vocab_size), ends=-1.0).float()


@pytest.fixture(scope="module")
def saved(model: ReactiveTransformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder, tokenizer=tokenizer)
    return folder


def without(folder: Path, model: ReactiveTransformer, *parts: Any, tokenizer: Tokenizer | None) -> Path:
    """A checkpoint that lacks parts."""
    lacking = ReactiveTransformer(model.config.model_copy(update={"absent": parts}))
    lacking.load_state_dict({name: value for name, value in model.state_dict().items() if name in lacking.state_dict()})
    lacking.save_pretrained(folder, tokenizer=tokenizer)
    return folder


def test_greedy_completion_is_what_the_decoder_says(model: ReactiveTransformer, tokenizer: Tokenizer) -> None:
    text, draws = "My dog", generator(1)
    events = list(complete(model, tokenizer, text, generator=draws, temperature=0, max_new_tokens=6))
    assert isinstance(events[-1], AnswerEnd)
    ids = [event.id for event in events if isinstance(event, Token)]
    stm, row = model.init_memory(1, generator(1)), [BOS, *tokenizer.encode(text)]
    with torch.no_grad():
        for token in ids:
            batch = TokenBatch.pad([row])
            logits = model.decode(batch.ids, batch.mask, stm)[0, -1]
            logits[[0, 1, 2, 4, 5, 6]] = float("-inf")
            assert int(logits.argmax()) == token
            row.append(token)
    plain = [token for token in ids if token != EOS]
    whole = tokenizer.decode([*tokenizer.encode(text), *plain])
    assert text + events[-1].text == whole
    assert "".join(event.text for event in events if isinstance(event, Token)) == events[-1].text


def test_the_command_streams_the_same_text(invoke: Any, saved: Path, model: ReactiveTransformer, tokenizer: Tokenizer) -> None:
    options = {"temperature": 0.7, "top_p": 0.8}
    events = list(complete(model, tokenizer, "My cat", generator=generator(5, "complete"), max_new_tokens=12, **options))
    arguments = ("complete", saved, "My cat", "--temperature", 0.7, "--top-p", 0.8, "--max-tokens", 12, "--seed")
    assert invoke(*arguments, 5).output == f"My cat{events[-1].text}\n"
    assert invoke(*arguments, 5).output != invoke(*arguments, 6).output


def test_a_completion_fits_the_model(invoke: Any, saved: Path, model: ReactiveTransformer, tokenizer: Tokenizer) -> None:
    events = list(complete(model, tokenizer, "My", generator=generator(0), temperature=3.0, top_p=None))
    assert len(events) - 1 <= model.config.max_length - 1 - len(tokenizer.encode("My")) - 1
    long = "My dog sleeps. " * 40
    assert "leaves no room" in refused(invoke("complete", saved, long, code=2))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("My dog is [MASK] Rex.", [" My dog is", MASK, " Rex."]),
        ("My dog is called [MASK].", [" My dog is called", MASK, "."]),
        ("[MASK] dog", [MASK, " dog"]),
        ("She[MASK] here", [" She", MASK, " here"]),
        ("[MASK]'s [MASK]", [MASK, "'s", MASK]),
        ("[MASK]ing [MASK][MASK]", [MASK, "ing", MASK, MASK]),
        ("My[MASK]\nIt", [" My", MASK, "\nIt"]),
    ],
)
def test_a_mask_stands_for_a_token_with_its_space(
    text: str, pieces: list[Any], model: ReactiveTransformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda ids, mask, stm: (seen.append(ids[0].tolist()), encode(ids, mask, stm))[1])
    found = fill_masks(model, tokenizer, text, top_k=3)
    backend = tokenizer._backend
    spans: list[Any] = []
    for token in seen[0][1:-1]:
        if token == MASK or not spans or spans[-1] == MASK:
            spans.append(MASK if token == MASK else [token])
        else:
            spans[-1].append(token)
    assert seen[0][0] == BOS
    assert seen[0][-1] == EOS
    assert [span if span == MASK else backend.decode(span) for span in spans] == pieces
    assert len(found) == text.count("[MASK]")


def test_guesses_are_ordered_and_no_special_tokens(model: ReactiveTransformer, tokenizer: Tokenizer) -> None:
    (guesses,) = fill_masks(model, tokenizer, "My [MASK] is here", top_k=10_000)
    assert len(guesses) == tokenizer.vocab_size - len(SPECIAL_TOKENS)
    assert all(guess.id >= len(SPECIAL_TOKENS) for guess in guesses)
    assert [guess.probability for guess in guesses] == sorted((guess.probability for guess in guesses), reverse=True)
    assert sum(guess.probability for guess in guesses) == pytest.approx(1, abs=1e-5)


def test_the_table_and_the_filled_text(invoke: Any, saved: Path, model: ReactiveTransformer, tokenizer: Tokenizer) -> None:
    text = "My dog is [MASK] Rex."
    (guesses,) = fill_masks(model, tokenizer, text, top_k=3, generator=generator(0, "fill-mask"))
    output = invoke("fill-mask", saved, text, "--top-k", 3).output
    assert all(f"{guess.probability:.3f}" in output for guess in guesses)
    assert output.splitlines()[-1] == f"My dog is{guesses[0].text} Rex."


def test_parts_alone_are_enough(invoke: Any, saved: Path, model: ReactiveTransformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    decoder = without(tmp_path / "decoder", model, "encoder", "memory_attention", "mlm_head", tokenizer=tokenizer)
    encoder = without(tmp_path / "encoder", model, "decoder", "memory_attention", tokenizer=tokenizer)
    arguments = ("My dog", "--max-tokens", 5)
    assert invoke("complete", decoder, *arguments).output == invoke("complete", saved, *arguments).output
    assert invoke("fill-mask", encoder, "My [MASK]").output == invoke("fill-mask", saved, "My [MASK]").output
    assert "This model has no decoder" in refused(invoke("complete", encoder, *arguments, code=2))
    assert "This model has no encoder" in refused(invoke("fill-mask", decoder, "My [MASK]", code=2))


@pytest.mark.parametrize("command", ["complete", "fill-mask"])
def test_what_is_missing_is_said_in_one_sentence(command: str, invoke: Any, model: ReactiveTransformer, tmp_path: Path) -> None:
    bare = without(tmp_path / "bare", model, tokenizer=None)
    assert "No tokenizer.json in" in refused(invoke(command, bare, "a [MASK]", code=2))
    assert "There is no checkpoint" in refused(invoke(command, tmp_path / "none", "a [MASK]", code=2))
    (tmp_path / "another").mkdir()
    assert "another holds no checkpoint" in refused(invoke(command, tmp_path / "another", "a [MASK]", code=2))


def test_wrong_options_are_refused_first(invoke: Any, saved: Path, tmp_path: Path) -> None:
    assert "top_p must be above 0" in refused(invoke("complete", tmp_path / "none", "a", "--top-p", 0, code=2))
    assert "The text has no [MASK]" in refused(invoke("fill-mask", saved, "nothing to fill", code=2))
    assert invoke("complete", saved, "a", "--temperature", -1, code=2).exit_code == 2


def test_masks_want_at_least_one_guess(model: ReactiveTransformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="top_k must be at least 1"):
        fill_masks(model, tokenizer, "My [MASK]", top_k=0)
