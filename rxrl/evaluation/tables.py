"""Tables of texts as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--"}
_LATEX |= {character: rf"\{character}" for character in "&%$#_{}"}


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, in full precision."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown; the first column is aligned left, the others right."""
    escaped = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]]) + "\n"


def latex(header: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", label: str = "") -> str:
    r"""A table as LaTeX with the rules of the package `booktabs`.

    Args:
        header: Names of the columns; the first is aligned left, the others right.
        rows: Cells; what LaTeX would read as a command is escaped.
        caption: Caption; "" leaves out the `table` environment around the `tabular` one.
        label: What `\ref` refers to; only with a caption.
    """
    lines = [" & ".join(map(_latex_text, row)) + r" \\" for row in (header, *rows)]
    body = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    body += [r"\bottomrule", r"\end{tabular}"]
    if caption:
        named = [rf"\label{{{label}}}"] if label else []
        body = [r"\begin{table}", r"\centering", rf"\caption{{{_latex_text(caption)}}}", *named, *body, r"\end{table}"]
    return "\n".join(body) + "\n"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
