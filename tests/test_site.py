"""The site builds without a warning, asks nothing of the network, and has no dead link; neither have the pages beside it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests import skips
from tests.pages import DOCS, PAGES, ROOT

FETCHED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
"""Attributes whose address a browser fetches by itself."""


INTERNAL = {"rxrl.cli", "rxrl.reading"}
"""Packages that serve rxrl itself."""


class Page(HTMLParser):
    """What a built page links to, what it makes a browser fetch, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.links, self.fetched, self.anchors = path, list[str](), list[str](), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.fetched += [given[name] for of, name in FETCHED if of == tag and name in given and given.get("rel") != "canonical"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the built site by their path; building it fails where there is a warning."""
    pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site").resolve()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def test_every_link_of_the_site_leads_somewhere(site: dict[Path, Page]) -> None:
    checked = 0
    for path, page in site.items():
        if path.name == "404.html":  # its addresses start at the root of the server that shows it
            continue
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in site:
                assert unquote(parts.fragment) in site[target].anchors, f"{path.name}: {link}"
            checked += 1
    assert checked > 1000


def test_a_built_page_fetches_nothing_from_the_network(site: dict[Path, Page]) -> None:
    for page in site.values():
        assert page.fetched
        for address in page.fetched:
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), f"{page.path.name}: {address}"
            assert not parts.netloc, f"{page.path.name}: {address}"
    root = min((path.parent for path in site), key=lambda path: len(path.parts))
    for style in root.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def documented() -> dict[str, Path]:
    """The modules that reference pages document, with the page of each."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    names = {name: page for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M)}
    return {name: page for name, page in names.items() if len(set(name.split("."))) == len(name.split("."))}


def test_every_package_that_users_import_has_a_reference_page() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {".".join(name.split(".")[:2]) for name in listed if "." in name}
    assert packages - INTERNAL <= {".".join(name.split(".")[:2]) for name in documented()}


@pytest.mark.parametrize("name", documented())
def test_reference_pages_hold_every_public_class_and_function(name: str, site: dict[Path, Page]) -> None:
    if name == "rxrl.integrations.verifiers":
        pytest.importorskip("verifiers", reason=skips.VERIFIERS)
    module = importlib.import_module(name)
    page = next(page for path, page in site.items() if path.parts[-2:] == ("reference", f"{documented()[name].stem}.html"))
    public = [each for each in getattr(module, "__all__", ()) if callable(getattr(module, each)) and getattr(module, each).__doc__]
    # A function with the name of its module is documented apart: `::: package.name.name`.
    assert not [each for each in public if not {f"{name}.{each}", f"{name}.{each}.{each}"} & page.anchors]


def anchors(page: Path) -> set[str]:
    """The anchors that headings have, on the site and where repositories are shown."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", each)).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_sources_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {target}"
