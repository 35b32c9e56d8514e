"""No module parses a file except through `rxrl.reading`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("rxrl", "envs", "rewards", "curricula")
PARSERS = {
    "json": {"load", "loads", "JSONDecoder"},
    "yaml": {"load", "load_all", "safe_load", "safe_load_all", "full_load", "unsafe_load", "SafeLoader", "compose", "parse"},
    "pickle": {"load"},
    "torch": {"load"},
    "csv": {"reader", "DictReader"},
    "parquet": {"read_table", "ParquetFile", "ParquetDataset", "read_pandas"},
    "safetensors": {"safe_open"},
    "zipfile": {"ZipFile"},
    "gzip": {"open"},
}
NAMES = {"safe_open", "load_file", "read_table", "ParquetFile", "DictReader", "JSONDecoder"}
EXCEPTIONS = {"rewards/verdicts.py": ["json.JSONDecoder"]}
"""Finds a verdict within the text of a judge's reply, of bounded length; it reads no file."""
METHODS = {"read_text", "read_bytes", "from_file", "model_validate_json", "validate_json"}


def parsed_outside(source: str) -> list[str]:
    """What in a module reads or parses a file by itself."""
    found = []
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rxrl.")]
    own |= {alias.name for node in imports for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in {*PARSERS, "pyarrow"}:
            banned = {name for names in PARSERS.values() for name in names} | NAMES
            found += [f"from {node.module} import {alias.name}" for alias in node.names if alias.name in banned]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in PARSERS.get(node.value.id, ()):
            found.append(f"{node.value.id}.{node.attr}")
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            found.append(f".{node.func.attr}()")
        if isinstance(node.func, ast.Name) and node.func.id in NAMES - own:
            found.append(f"{node.func.id}()")
        if _opens_to_read(node):
            found.append("open() to read")
    return found


def _opens_to_read(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name != "open" or (isinstance(call.func, ast.Attribute) and not _is_a_path(call.func.value)):
        return False
    given = [*call.args[isinstance(call.func, ast.Name) :][:1], *(each.value for each in call.keywords if each.arg == "mode")]
    return not given or not isinstance(given[0], ast.Constant) or not set(str(given[0].value)) & set("wax+")


def _is_a_path(node: ast.expr) -> bool:
    text = ast.unparse(node).lower()
    return "path" in text or "file" in text or "folder" in text


def modules() -> list[str]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if not any(part.is_symlink() for part in file.parents)]
    return sorted({str(file.relative_to(ROOT)) for file in files if "reading" not in file.parts})


@pytest.mark.parametrize("module", modules())
def test_no_module_parses_a_file_by_itself(module: str) -> None:
    # `pickle.loads` of what was pickled a moment ago, in the check of a reward, reads no file.
    assert parsed_outside((ROOT / module).read_text(encoding="utf-8")) == EXCEPTIONS.get(module, [])


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads(text)", "import yaml\nyaml.safe_load(text)", "from safetensors import safe_open\nsafe_open(path)",
        "path.read_text()", "path.read_text(encoding='utf-8')", "open(name)", "open(name, 'rb')", "path.open()", "file.open('rb')",
        "from safetensors.torch import load_file\nload_file(path)", "torch.load(path)", "import csv\ncsv.DictReader(file)",
        "parquet.read_table(path)", "tokenizers.Tokenizer.from_file(path)", "Model.model_validate_json(text)", "from json import loads",
    ],
)  # fmt: skip
def test_it_would_be_found(source: str) -> None:
    assert parsed_outside(source)


@pytest.mark.parametrize("source", ["path.open('w')", "open(name, 'a')", "json.dumps(value)", "browser.open(address)", "yaml.safe_dump(a)"])
def test_writing_is_another_matter(source: str) -> None:
    assert not parsed_outside(source)
