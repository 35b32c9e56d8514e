"""Self-contained HTML pages: a template with its style sheet inside, all values escaped, and a table of contents of its sections."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rxrl.evaluation.charts import number

_SECTION = re.compile(r'<section id="([^"]+)"[^>]*>\s*<h2[^>]*>(.*?)</h2>')


def page(template: str, **values: Any) -> str:
    """The page of a template as text, with a table of contents made of its sections.

    Args:
        template: Name of a file in `templates/`.
        values: What it shows; a name that it uses and that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("rxrl.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "sections": sections}
    return environment.get_template(template).render(**{"refresh": None} | values)


def sections(body: Markup) -> list[tuple[str, Markup]]:
    """Anchor and heading of each section of a page."""
    return [(unescape(anchor), Markup(title)) for anchor, title in _SECTION.findall(body)]
