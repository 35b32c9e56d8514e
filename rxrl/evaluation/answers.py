"""The first screen in words: how good, how long, under what load, against what, and whether MRL paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rxrl.evaluation.charts import number

Part = Mapping[str, Any]
Sentence = dict[str, str]

FEW: Final = 5
"""Conversations below which intervals are not shown."""
LOAD: Final = "Under what load?"
HELD: Final = 0.9
"""Retention from which on a memory counts as holding."""
CONDITIONS: Final = ("after_mrl", "evaluation", "after_smat_continued", "after_supervised")


def answers(
    run: Part, main: Part, metric: str, level: float | None, load: Sequence[tuple[str, Part]], rival: Sequence[tuple[str, Part]] = ()
) -> list[tuple[str, list[Sentence]]]:
    """What the first screen says, as pairs of a question and sentences; questions without an answer are left out.

    Args:
        run: Content of report.json.
        main: Summary of the condition that the page is about.
        metric: The headline of it.
        level: Chance.
        load: What was measured under stress: in words, with mean and ends of the interval.
        rival: The same of SMAT continued, beside a page about MRL.
    """
    controls = run.get("controls") or {}
    found = (
        ("How good?", _goodness(main, metric, level)),
        ("For how long?", _length(main)),
        (LOAD, _load(load, main.get(metric))),
        ("Against what?", _control_sentences(controls)),
        ("Did MRL pay?", [*_comparison_sentences(run), *_load_sentences(load, dict(rival))]),
    )
    return [(question, sentences) for question, each in found if (sentences := list(each))]


def with_load(found: Sequence[tuple[str, list[Sentence]]], sentences: list[Sentence]) -> list[tuple[str, list[Sentence]]]:
    """The answers with what the curves of stress say of the load."""
    return [(question, sentences if question == LOAD else each) for question, each in found]


def training_answers(stages: Sequence[Part]) -> list[tuple[str, list[Sentence]]]:
    """The same of a training that was not evaluated: what its curriculum says."""
    first, last = stages[0], stages[-1]
    reward = {"first": (first.get("reward") or {}).get("mean"), "last": (last.get("reward") or {}).get("mean")}
    text = (
        f"At the end of training, held-out conversations of {last.get('steps')} turns earn {number(reward['last'])} of 10; at the end of "
        f"the first stage, those of {first.get('steps')} turns earned {number(reward['first'])}."
    )
    open_text = (
        "Not measured yet: evaluate the run into its own folder (rxrl evaluate RUN --out RUN), then make this page again (rxrl report RUN)."
    )
    return [("How good?", [_open(text)]), ("Against what, and for how long?", [_open(open_text)])]


def too_few(conversations: int | None) -> bool:
    """Whether an interval over these conversations says nothing: resamples of so few are too much alike."""
    return conversations is not None and conversations < FEW


def extent(part: Part, metric: str) -> Sequence[float] | None:
    """The interval of a metric; None where too few conversations gave it."""
    return None if too_few(part.get(f"{metric}_conversations")) else part.get(f"{metric}_interval")


def digits_for(first: float, second: float, difference: float) -> int:
    """Fewest digits, from 2 to 4, with which the two numbers differ by the difference as it is shown."""
    fits = (digits for digits in (2, 3) if round(round(first, digits) - round(second, digits) - round(difference, digits), 6) == 0)
    return next(fits, 4)


def _goodness(main: Part, metric: str, level: float | None) -> Iterator[Sentence]:
    if main.get(metric) is None:
        return
    exact = main.get(f"{metric}_exact")
    words = f"The answers hold {number(main[metric], 3)} of what is asked"
    if exact is not None and number(exact, 3) != number(main[metric], 3):
        words += f", and {number(exact, 3)} of them are exactly right"
    low = (extent(main, metric) or (main[metric],))[0]
    tone = "open" if level is None else "good" if low > level else "bad"
    yield {"tone": tone, "text": f"{words}.{'' if level is None else f' The best constant answer earns {number(level)} (chance).'}"}


def _length(main: Part) -> Iterator[Sentence]:
    rows = [row for row in main.get("by_distance") or () if row.get("mean") is not None]
    if not rows:
        return
    holds = next((index for index, row in enumerate(rows) if row["mean"] < HELD), len(rows))
    last, least = rows[-1], min(rows, key=lambda row: float(row["mean"]))
    end = f"{number(last['mean'])} after {last['distance']} turns, the farthest that was asked"
    if holds == len(rows):
        yield {"tone": "good", "text": f"At least {HELD} at every distance: {end}."}
        return
    lowest = "" if least is last else f", {number(least['mean'])} at the lowest, after {least['distance']} turns"
    if holds:
        yield _open(f"At least {HELD} up to {rows[holds - 1]['distance']} turns after a fact was told{lowest}; {end}.")
    else:
        start = f"Below {HELD} already {rows[0]['distance']} turns after a fact was told ({number(rows[0]['mean'])})"
        yield {"tone": "bad", "text": f"{start}; {end}."}


def _load(load: Sequence[tuple[str, Part]], usual: float | None) -> Iterator[Sentence]:
    known = [(title, part["mean"]) for title, part in load if part.get("mean") is not None]
    if not known:
        if usual is not None:
            yield _open("Not measured here: neither longer conversations nor small talk in between were played.")
        return
    listed = ", ".join(f"{number(mean)} with {title}" for title, mean in known)
    worst = min(mean for _, mean in known)
    yield {"tone": "good" if worst >= HELD else "bad" if usual is not None and worst < usual / 2 else "open", "text": f"{listed}."}


def _comparison_sentences(run: Part) -> Iterator[Sentence]:
    comparisons = run.get("comparisons") or {}
    for key, against in (
        ("mrl_minus_supervised", "the supervised checkpoint it started from"),
        ("mrl_minus_smat", "supervised training (SMAT) continued for the same number of tokens"),
    ):
        if part := comparisons.get(key):
            yield {"tone": _tone(part), "text": _difference_sentence(part, against)}


def _load_sentences(load: Sequence[tuple[str, Part]], rival: Part) -> Iterator[Sentence]:
    """MRL beside SMAT continued under stress; apart are those whose intervals are, unless too few conversations gave them."""
    pairs = [(title, part, rival[title]) for title, part in load if title in rival and None not in (part["mean"], rival[title]["mean"])]
    if not pairs:
        return
    sure = [(own, other) for _, own, other in pairs if not too_few(own.get("conversations"))]
    ahead = any(own["low"] > other["high"] for own, other in sure)
    behind = any(own["high"] < other["low"] for own, other in sure)
    listed = ", ".join(f"{number(own['mean'])} against {number(other['mean'])} with {title}" for title, own, other in pairs)
    tone = "good" if ahead and not behind else "bad" if behind and not ahead else "open"
    yield {"tone": tone, "text": f"Under load, MRL beside SMAT continued: {listed}."}


def _difference_sentence(part: Part, against: str) -> str:
    digits = digits_for(part["first"], part["second"], part["difference"]) if "first" in part else 2
    span = f"paired 95 % interval {number(part['low'], digits)} to {number(part['high'], digits)}"
    size = f"{number(abs(part['difference']), digits)} ({span})"
    means = f"{number(part['first'], digits)} against {number(part['second'], digits)}, " if "first" in part else ""
    if too_few(part.get("conversations")):
        where = "one conversation" if part["conversations"] == 1 else f"{part['conversations']} conversations"
        return f"MRL and {against} differ by {number(part['difference'], digits)} on {where}: too few to tell them apart."
    if part["low"] > 0:
        return f"MRL remembers more than {against}: {means}ahead by {size}."
    if part["high"] < 0:
        return f"MRL remembers less than {against}: {means}behind by {size}. On this run, MRL did not pay."
    return f"MRL and {against} cannot be told apart: {means}difference {number(part['difference'], digits)} ({span})."


def _control_sentences(controls: Part) -> Iterator[Sentence]:
    swapped = controls.get("swapped_memory") or {}
    if part := swapped.get("contribution"):
        count, digits = part.get("conversations"), digits_for(part["first"], part["second"], part["difference"])
        span = f"paired 95 % interval {number(part['low'], digits)} to {number(part['high'], digits)}"
        text = (
            f"With another conversation's memory the same questions are answered at {number(part['second'], digits)} instead of "
            f"{number(part['first'], digits)}: memory contributes {number(part['difference'], digits)} "
            f"({f'too few conversations to be sure: {count}' if too_few(count) else span})."
        )
        yield {"tone": _tone(part), "text": text}
    oracle = (controls.get("oracle") or {}).get("retention")
    if oracle is not None and oracle < 1:
        text = f"The reference answers themselves earn {number(oracle, 3)}, not 1: some references are not scored as right."
        yield {"tone": "bad", "text": text}


def _tone(part: Part) -> str:
    return "open" if too_few(part.get("conversations")) else "good" if part["low"] > 0 else "bad" if part["high"] < 0 else "open"


def _open(text: str) -> Sentence:
    return {"tone": "open", "text": text}
