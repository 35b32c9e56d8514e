"""Cosine of token embeddings and of sentence embeddings, BLEU on text, and format."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.errors import ConfigError, MissingExtraError
from rxrl.rewards import Cosine, Format, Semantic, load_reward, sample_turn
from rxrl.rewards import similarity as similarity_module
from rxrl.rewards.samples import saved
from rxrl.scoring import score_turns
from rxrl.types import Score, Turn


def scores(reward: Any, turns: list[Turn]) -> list[Score]:
    return score_turns(reward, turns)


def values(reward: Any, turns: list[Turn]) -> list[float | None]:
    return [score.value for score in scores(reward, turns)]


def first_letters(rows: Any) -> torch.Tensor:
    """Two dimensions: how many ids are even, how many odd."""
    return torch.tensor([[sum(i % 2 == 0 for i in row) + 0.0, sum(i % 2 for i in row) + 0.0] for row in rows])


def test_cosine_equals_the_cosine_of_the_means() -> None:
    turn = sample_turn("x", answer_ids=(2, 4, 3), reference_ids=(8, 9), saved=(saved("", ""),))
    [score] = scores(Cosine(embed=first_letters), [turn])
    assert score.value == pytest.approx(10 * (2 * 1 + 1 * 1) / (5**0.5 * 2**0.5), abs=1e-5)
    assert score.terms == {"reference": score.value}


def test_cosine_weighs_reference_and_saved_and_leaves_out_what_is_not_there() -> None:
    told = saved("a b", "c")
    reward = Cosine(reference=1, saved=3)
    same, other = sample_turn("a b c", reference="a b c", saved=(told,)), sample_turn("a b c", reference="x y z", saved=(told,))
    assert values(reward, [same]) == [pytest.approx(10.0)]
    [score] = scores(reward, [other])
    assert score.terms["saved"] == pytest.approx(10.0)
    assert score.value == pytest.approx((score.terms["reference"] + 3 * 10) / 4)
    assert values(reward, [sample_turn("a", reference="", saved=(told,))]) == values(
        Cosine(reference=0, saved=1), [sample_turn("a", saved=(told,))]
    )
    assert values(Cosine(), [sample_turn("a", reference="")]) == [None]
    with pytest.raises(ConfigError, match="weight above 0"):
        load_reward({"use": "cosine", "reference": 0})


def test_cosine_takes_the_embeddings_that_it_is_handed() -> None:
    turn = sample_turn("x", answer_ids=(2,), reference_ids=(3,))
    assert values(load_reward("cosine", embed=first_letters), [turn]) == [0.0]


@pytest.fixture(scope="module")
def sentences() -> Semantic:
    return Semantic()


def test_semantic_sees_meaning_but_hardly_the_fact(sentences: Semantic) -> None:
    answers = ("Mia has a cat.", "Mia owns a cat.", "Mia has a dog.", "The weather is nice.", "")
    right, paraphrase, wrong, other, empty = values(sentences, [sample_turn(answer) for answer in answers])
    assert right == pytest.approx(10.0, abs=1e-3)
    assert right > paraphrase > wrong > other > empty == 0.0
    assert wrong > 5.0
    assert values(sentences, [sample_turn("cat", reference=" ")]) == [None]


def test_semantic_embeds_a_sentence_once_and_a_batch_as_it_embeds_one(sentences: Semantic) -> None:
    turns = [sample_turn(answer) for answer in ("Mia has a kitten.", "She lives alone.", "Mia has a kitten.")]
    together = values(sentences, turns)
    encoder = similarity_module._encoder(sentences.model, sentences.device)
    asked: list[list[str]] = []
    encode = encoder.model.encode
    try:
        encoder.model.encode = lambda texts, **options: (asked.append(list(texts)), encode(texts, **options))[1]
        assert values(sentences, turns) == together
        assert asked == []
        values(sentences, [sample_turn("Something new."), sample_turn("Something new.")])
        assert asked == [["Something new."]]
    finally:
        encoder.model.encode = encode
    encoder._known.clear()
    assert [values(sentences, [turn])[0] for turn in turns] == pytest.approx(together, abs=1e-3)
    assert len(pickle.dumps(sentences)) < 1000
    assert values(pickle.loads(pickle.dumps(sentences)), turns) == pytest.approx(together, abs=1e-3)


def test_semantic_compares_with_what_was_saved(sentences: Semantic) -> None:
    turn = sample_turn("She has a cat that sleeps.", saved=(saved("A story.", "Mia has a cat that sleeps all day."),))
    [score] = scores(Semantic(reference=1, saved=1), [turn])
    assert score.value == pytest.approx((score.terms["reference"] + score.terms["saved"]) / 2)


def test_semantic_keeps_a_bounded_number_of_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def get_embedding_dimension(self) -> int:
            return 2

        def encode(self, texts: list[str], **options: Any) -> torch.Tensor:
            return torch.ones(len(texts), 2)

    monkeypatch.setattr(similarity_module, "_KEPT", 44)
    encoder = similarity_module._Encoder(Model())
    for start in range(0, 10, 2):
        assert encoder.embed([f"t{start}", f"t{start + 1}", "again"], 8).shape == (3, 2)
    assert {"t8", "t9", "again"} <= set(encoder._known)
    assert len(encoder.embed([f"many{i}" for i in range(9)], 8)) == 9
    assert sum(2 + len(text) for text in encoder._known) <= 44
    assert encoder.embed(["long" * 10_000], 8).shape == (1, 2)
    assert max(map(len, encoder._known)) < 44


def test_semantic_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    similarity_module._encoder.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "sentence_transformers", None)
        with pytest.raises(MissingExtraError, match=r"rxrl\[semantic\]"):
            score_turns(Semantic(), [sample_turn("cat")])
    with pytest.raises(ConfigError, match="cannot load the sentence model"):
        score_turns(Semantic(model=str(tmp_path / "nothing")), [sample_turn("cat")])


def test_bleu_on_text_equals_sacrebleu() -> None:
    import sacrebleu

    reward = load_reward({"use": "bleu", "level": "text"})
    answers = ("Mia has a cat.", "Mia has a dog.", "cat", "", "She has, as I said, a cat.")
    wanted = [sacrebleu.metrics.BLEU(effective_order=True).sentence_score(answer, ["Mia has a cat."]).score / 10 for answer in answers]
    assert values(reward, [sample_turn(answer) for answer in answers]) == pytest.approx(wanted, abs=1e-6)
    assert values(reward, [sample_turn("cat", reference="cat"), sample_turn("cat", reference="")]) == [pytest.approx(10.0), None]
    assert values(load_reward({"use": "bleu", "level": "text", "lowercase": True}), [sample_turn("MIA HAS A CAT.")]) == [
        pytest.approx(10.0)
    ]
    with pytest.raises(ConfigError, match="level"):
        load_reward({"use": "bleu", "level": "words"})


@pytest.mark.parametrize(
    ("options", "answer", "value"),
    [
        ({}, "A cat.", 10.0),
        ({}, "", 0.0),
        ({}, "[Q] cat", 0.0),
        ({}, "A cat.\nA dog.", 5.0),
        ({"one_line": False}, "A cat.\nA dog.", 10.0),
        ({"max_words": 2}, "A cat.", 10.0),
        ({"max_words": 2}, "It is a cat.", 10 * 2 / 3),
        ({"pattern": r"[A-Z].*\."}, "A cat.", 10.0),
        ({"pattern": r"[A-Z].*\."}, "a cat.", 10 * 2 / 3),
        ({"ends_with": [".", "!"]}, "A cat!", 10.0),
        ({"ends_with": ["."], "max_words": 1}, "A cat", 5.0),
    ],
)
def test_format_gives_the_share_of_the_rules_kept(options: dict[str, Any], answer: str, value: float) -> None:
    if "pattern" in options:
        pytest.importorskip("re2", reason="needs the extra `patterns`")
    assert values(load_reward({"use": "format", **options}), [sample_turn(answer)]) == [pytest.approx(value)]


def test_format_names_its_rules_and_refuses_a_broken_pattern() -> None:
    [score] = scores(Format(max_words=1), [sample_turn("a cat")])
    assert score.terms == {"answer": 10.0, "one_line": 10.0, "max_words": 0.0}
    pytest.importorskip("re2", reason="needs the extra `patterns`")
    with pytest.raises(ConfigError, match=r"pattern.*no regular expression"):
        load_reward({"use": "format", "pattern": "("})


@pytest.mark.parametrize("name", ["exact", "token_f1"])
def test_texts_without_words_are_compared_as_they_stand(name: str) -> None:
    reward = load_reward(name)
    answers = ["👍", " 👍 ", "", "!?", "👎", "yes"]
    found = [score.value for score in reward([sample_turn(answer, reference="👍", aliases={}, expected={}) for answer in answers])]
    assert found == [10.0, 10.0, 0.0, 0.0, 0.0, 0.0]
