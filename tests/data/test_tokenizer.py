"""The tokenizer: special tokens stay out of text, text survives, files are what was saved."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.data.tokenizer import HASH_FILE, TOKENIZER_FILE, Tokenizer
from rxrl.data.words import is_by_word
from rxrl.data.world import GeneratedSource
from rxrl.errors import CheckpointError, ConfigError
from rxrl.types import ANSWER, EOS, QUERY, SPECIAL_TOKENS


def corpus():
    source = GeneratedSource(1, 0, "train")
    taken = source.take(steps=8, strategy="multi-step", start=0, count=150)
    return [part for each in taken for turn in each.interactions for part in (turn.query, turn.answer)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(corpus(), 768)


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.decode([*range(len(SPECIAL_TOKENS))]) == ""
    assert tokenizer.vocab_size <= 768


def test_words_are_the_same_token_at_the_start_and_inside(tokenizer):
    assert tokenizer.encode("Anna has a cat.")[0] == tokenizer.encode("Where is Anna?")[2]
    assert len(tokenizer.encode("Anna has a cat.")) == 5


@pytest.mark.parametrize("text", ["[EOS]", "a [EOS] b", "[PAD][Q][A]", "Anna[BOS]has", " [MASK]", "[UNK]"])
def test_text_never_becomes_a_special_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert min(ids) >= len(SPECIAL_TOKENS)
    assert tokenizer.decode(ids).strip() == text.strip()


def test_not_even_if_it_was_trained_on_them():
    trained = Tokenizer.train(["[EOS] [EOS] [Q] [Q] [A]"] * 50, 400)
    assert min(trained.encode("[EOS] [Q] [A]")) >= len(SPECIAL_TOKENS)


@given(st.text(max_size=40).filter(lambda text: not text.startswith(" ")))
def test_any_text_survives(text):
    assert SHARED.decode(SHARED.encode(text)) == text


SHARED = Tokenizer.train(corpus()[:100], 300)


def test_batches_equal_single_texts(tokenizer):
    texts = ["Anna has a cat.", "", "[EOS]", "größer"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode("") == []


WORDS = st.one_of(
    st.text(max_size=6), st.sampled_from(["Anna", "has", "it's", "'s", "don't", "[EOS]", "12.5", "größer", "水。", "x" * 70, " ", "\u00a0"])
)


@given(st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=5))
def test_texts_that_are_encoded_word_by_word_have_the_ids_of_whole_texts(texts):
    assert SHARED.encode_batch(texts) == [SHARED.encode(text) for text in texts]


def test_a_full_table_of_words_begins_anew(monkeypatch):
    trained = Tokenizer.train(corpus()[:100], 300)
    monkeypatch.setattr("rxrl.data.words.MOST_WORDS", 12)
    texts = corpus()[:60]
    for at in range(0, 60, 3):
        assert trained.encode_batch(texts[at : at + 3]) == [trained.encode(text) for text in texts[at : at + 3]]
        assert len(trained._words._known) <= 40


@pytest.mark.parametrize("part", [("pre_tokenizer", {"type": "Whitespace"}), ("normalizer", {"type": "Lowercase"})])
def test_a_tokenizer_whose_words_depend_on_their_neighbours_encodes_whole_texts(part, tmp_path):
    description = json.loads(SHARED._backend.to_str()) | dict([part])
    (tmp_path / TOKENIZER_FILE).write_text(json.dumps(description))
    loaded = Tokenizer.load(tmp_path / TOKENIZER_FILE)
    assert not is_by_word(description)
    assert loaded.encode_batch(corpus()[:9]) == [loaded.encode(text) for text in corpus()[:9]]


def test_decoding_leaves_special_tokens_out(tokenizer):
    ids = tokenizer.encode("Anna has a cat.")
    assert tokenizer.decode([QUERY, *ids[:2], ANSWER, *ids[2:], EOS]) == "Anna has a cat."


def test_training_is_deterministic(tokenizer):
    assert Tokenizer.train(corpus(), 768).hash == tokenizer.hash
    assert Tokenizer.train(corpus(), 300).hash != tokenizer.hash


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep")
    loaded = Tokenizer.load(tmp_path / "deep")
    assert loaded.hash == tokenizer.hash
    assert loaded.encode("[EOS] Anna") == tokenizer.encode("[EOS] Anna")
    assert loaded.vocab_size == tokenizer.vocab_size


def test_a_changed_file_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    Tokenizer.train(corpus(), 300).save(tmp_path / "other")
    (tmp_path / TOKENIZER_FILE).write_text((tmp_path / "other" / TOKENIZER_FILE).read_text())
    with pytest.raises(CheckpointError, match="restore the original"):
        Tokenizer.load(tmp_path)
    (tmp_path / HASH_FILE).unlink()
    Tokenizer.load(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        Tokenizer.load(tmp_path)


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="at least 263"):
        Tokenizer.train(["a"], 100)
    with pytest.raises(CheckpointError, match=r"No tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_token_of_a_huge_id_is_refused_before_memory_is_spent(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / TOKENIZER_FILE).read_text())
    content["model"]["vocab"]["Anna"] = 600_000_000
    (tmp_path / TOKENIZER_FILE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json .*600000000, but ids go up to"):
        Tokenizer.load(tmp_path)
