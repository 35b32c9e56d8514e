"""Keys and passwords stay out of whatever rxrl says or saves."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.errors import ConfigError, EndpointError, RxrlError
from rxrl.secrets import HIDDEN, has_user_info, redacted, redacted_data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host/v1 is away", "http://***@host/v1 is away"),
        ("'https://user@host'", "'https://***@host'"),
        ("http://:pw@host and ftp://a:b@c", "http://***@host and ftp://***@c"),
        ("http://user:pa/ss?w#rd@host:80/v1", "http://***@host:80/v1"),
        ("postgresql+psycopg://user:p%40ss@host", "postgresql+psycopg://***@host"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1?to=a@b", "http://localhost:8000/v1?to=a@b"),
        ("https://host/owner/name@main, mail me: a@b.c", "https://host/owner/name@main, mail me: a@b.c"),
    ],
)
def test_addresses_lose_their_user_and_password(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert has_user_info(text) == (shown != text)


def test_secrets_of_the_environment_are_hidden_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", 'sk-a"b/c+d\n')
    for echoed in ('key sk-a"b/c+d is wrong', r'{"error": "sk-a\"b/c+d"}', "?key=sk-a%22b%2Fc%2Bd"):
        assert "sk-a" not in redacted(echoed)
        assert HIDDEN in redacted(echoed)
    assert redacted("sk-") == "sk-"


def test_paths_and_short_values_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/id")
    monkeypatch.setenv("SOME_TOKEN", "none")
    monkeypatch.setenv("MAX_TOKENS", "sixty-four tokens")
    assert redacted("none of /home/me/.ssh/id, sixty-four tokens") == "none of /home/me/.ssh/id, sixty-four tokens"


def test_what_a_caller_knows_is_hidden_too() -> None:
    assert redacted("Bearer abcd-abcdef", "abcd", "abcd-abcdef", None, "") == f"Bearer {HIDDEN}"
    assert redacted("a key of one letter: x", "x") == "a key of one letter: x"


def test_saved_settings_keep_everything_but_secrets() -> None:
    settings = {
        "reward": {"judge": {"endpoint": "http://me:pw@host/v1", "api_key_env": "OPENAI_API_KEY", "max_tokens": 64, "weight": 0.5}},
        "tracking": {"api_key": "abc", "hf_token": "abc", "token": None, "tokenizer": "mine", "Authorization": "Bearer x", "password": ""},
        "lists": ["https://a:b@c", 1, None, True, ("x",)],
    }
    assert redacted_data(settings) == {
        "reward": {"judge": {"endpoint": "http://***@host/v1", "api_key_env": "OPENAI_API_KEY", "max_tokens": 64, "weight": 0.5}},
        "tracking": {"api_key": "***", "hf_token": "***", "token": None, "tokenizer": "mine", "Authorization": "***", "password": ""},
        "lists": ["https://***@c", 1, None, True, ["x"]],
    }
    assert settings["reward"]["judge"]["endpoint"] == "http://me:pw@host/v1"  # type: ignore[index]


@pytest.mark.parametrize("kind", [RxrlError, ConfigError, EndpointError])
def test_no_error_says_a_secret(kind: type[RxrlError], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SECRET-123")
    error = kind("http://me:hush-hush@host said: Incorrect API key provided: sk-SECRET-123")
    for said in (str(error), repr(error), str(pickle.loads(pickle.dumps(error)))):
        assert "SECRET" not in said
        assert "hush" not in said


@given(st.text(max_size=60))
def test_text_without_an_address_stays_as_it_is(text: str) -> None:
    assert "://" in text or redacted(text) == text
