"""`rxrl play --as user`: a person asks and a policy answers; what is hidden, what the rule would say, and what answers are worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.cli.person import at_terminal, typed
from rxrl.envs.scenarios import SCENARIOS, load
from rxrl.seeding import derive_seed
from tests.policies.server import serve


def played(*arguments: object, said: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, ["play", "--as", "user", *map(str, arguments)], input=said)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def shown(output: str, who: str) -> list[str]:
    """What stands behind a margin, such as `A:` or `hint:`."""
    return [line[len(f"{who:>6}") + 1 :] for line in output.splitlines() if line.startswith(f"{who:>6} ")]


@pytest.mark.parametrize("name", sorted(name for name, kind in SCENARIOS.built_in.items() if not kind.asks_outside))
@pytest.mark.parametrize("level", [1, 3])
def test_enter_says_what_the_rule_says_and_the_player_earns_what_it_earns_there(name: str, level: int) -> None:
    out = played(f"scenario:{name}", "--policy", "best", "--steps", 5, "--level", level, said="\n" * 9).stdout
    [game] = load(name, level=level, split="test").take(steps=5)
    assert [shown(out, f"{turn} Q:")[0] for turn in range(1, 6)] == shown(out, "hint:")
    outcomes = [float(line.split()[1].rstrip(",")) for line in shown(out, "") if line.startswith("outcome")]
    assert len(outcomes) == 5
    assert f"you know: {game.secret(game.start())}" in out
    assert shown(out, "told:") == [game.begin(derive_seed(0, "stm0", game.id)).first.query]
    # Its last words, which react to the last answer, are said to nobody.
    assert "  6 Q:" not in out


def test_own_words_go_to_the_model_and_the_outcome_goes_by_the_rule(checkpoint: Path) -> None:
    said = "Good morning.\n\nWhich one?\n"
    first, again = (played("scenario:preferences", "--policy", checkpoint, said=said).stdout for _ in range(2))
    assert first == again
    assert shown(first, "1 Q:") == ["Good morning."]
    assert shown(first, "2 Q:") == [shown(first, "hint:")[1]]
    assert shown(first, "3 Q:") == ["Which one?"]
    assert first.count("outcome 0.0") == 3
    assert first.count("memory written, drift") == 4
    assert "outcome   0.00   0.00   0.00       3" in first
    sampled = played("scenario:preferences", "--policy", checkpoint, "--sampled", said=said).stdout
    assert shown(sampled, "A:") != shown(first, "A:")


def test_a_player_of_the_scenario_hears_the_words_that_it_knows() -> None:
    out = played("scenario:guess", "--policy", "best", said="So?\nAnd now?\nGo on.\n").stdout
    rule = played("scenario:guess", "--policy", "best", said="\n\n\n").stdout
    assert shown(out, "A:") == shown(rule, "A:")
    assert shown(out, "2 Q:") == ["And now?"]


def test_conversations_are_a_chat_with_their_queries_as_hints() -> None:
    with serve(lambda number, body: f"Answer {number}.") as server:
        out = played("--policy", server.url, "--steps", 2, said="\nMy name is Kim.\nWhat is my name?\n\nBye.\n").stdout
    assert shown(out, "A:") == [shown(out, "A:")[0], *(f"Answer {number}." for number in range(4))]
    assert shown(out, "1 Q:") == shown(out, "hint:")[:1]
    assert shown(out, "4 Q:") == ["Bye."]  # an empty line where nothing is proposed says nothing
    assert sum("reference: " in line for line in shown(out, "")) == 1
    last = server.requests[-1]["messages"]
    assert [each["content"] for each in last[-5:]] == ["My name is Kim.", "Answer 1.", "What is my name?", "Answer 2.", "Bye."]
    assert "outcome" not in out


def test_too_long_a_query_is_said_again() -> None:
    out = played("--policy", "parrot", said=f"{'word ' * 300}\nshort\n").stdout
    assert "tokens long, but at most 128 fit: say it in fewer words." in out
    assert shown(out, "1 Q:") == ["short"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "add --policy with a checkpoint, best, blind, or another player"),
        (("--policy", "oracle"), "add --policy with a checkpoint"),
        (("--policy", "parrot", "--reward", "exact"), "--reward is for conversations that are scored"),
        (("--policy", "parrot", "--teacher-forcing"), "--teacher-forcing is for conversations that are scored"),
        (("--policy", "best"), "belongs to a scenario"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(options: tuple[str, ...], message: str) -> None:
    assert message in " ".join(played(*options, said="", code=2).stderr.split())


def test_it_ends_with_the_input_and_refuses_what_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = played("scenario:pairs", "--policy", "best", said="").stdout
    assert "hint: " in out
    assert "mean" not in out
    monkeypatch.setattr(sys, "stdin", None)
    assert not at_terminal()
    with pytest.raises(EOFError):
        typed("> ")


def test_a_line_that_is_no_text_is_one_sentence() -> None:
    result = CliRunner().invoke(cli.app, ["play", "--as", "user", "--policy", "parrot"], input=b"\xff\xfe\n")
    assert result.exit_code == 2
    assert "The input is not UTF-8 text" in result.stderr
