from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import gymnasium
import pytest

import rxrl

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
LINKED = {name for name in PROJECT["tool"]["setuptools"]["package-dir"] if name != "rxrl"}


def folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def test_package_list_is_the_tree() -> None:
    found = {"rxrl"}
    pending = [ROOT / "rxrl"]
    while pending:
        for child in pending.pop().iterdir():
            if child.is_dir() and (child / "__init__.py").exists():
                found.add(".".join(child.relative_to(ROOT).parts))
                pending.append(child)
    assert set(PACKAGES) == found
    assert len(PACKAGES) == len(set(PACKAGES))


def test_no_module_lies_outside_the_packages() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(PROJECT["tool"]["setuptools"]["py-modules"])
    inside = {path for package in PACKAGES for path in folder(package).glob("*.py")}
    everything = {path for package in ("rxrl", *LINKED) for path in folder(package).rglob("*.py")}
    assert everything <= inside


@pytest.mark.parametrize("package", sorted(LINKED))
def test_links_are_relative_and_lead_to_the_folder_that_is_packaged(package: str) -> None:
    link = folder(package)
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / PROJECT["tool"]["setuptools"]["package-dir"][package]).resolve()


def test_version_is_told_once() -> None:
    assert PROJECT["project"]["version"] == rxrl.__version__


def test_public_names_resolve() -> None:
    for name in rxrl.__all__:
        assert getattr(rxrl, name) is not None
    assert set(rxrl.__all__) <= set(dir(rxrl))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = rxrl.Nothing


def test_environment_is_registered_with_entry_points_that_exist() -> None:
    spec = gymnasium.spec(rxrl.ENV_ID)
    for entry_point in (spec.entry_point, spec.vector_entry_point):
        assert isinstance(entry_point, str)
        assert callable(gymnasium.envs.registration.load_env_creator(entry_point))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what is packaged."""
    source = tmp_path_factory.mktemp("source")
    names = ["pyproject.toml", "LICENSE", "README.md", "rxrl", "envs", "rewards", "curricula"]
    present = (name for name in names if (ROOT / name).exists())
    command = ["tar", "--exclude=__pycache__", "--exclude=*.so", "-C", str(ROOT), "-cf", "-", *present]
    archive = subprocess.run(command, capture_output=True, check=True)
    subprocess.run(["tar", "-C", str(source), "-xf", "-"], input=archive.stdout, check=True)
    (source / "README.md").touch()
    return source


def built(source: Path, folder: Path, **environment: str) -> Path:
    """A wheel, made without network."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*pip, "-w", str(folder), str(source)], capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("rxrl-*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(source, tmp_path_factory.mktemp("wheel"))


def kernels_in(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("rxrl/models/kernels/_kernels")]


def test_kernels_are_built_where_there_is_a_compiler_and_left_out_where_there_is_none(wheel: Path, source: Path, tmp_path: Path) -> None:
    assert kernels_in(wheel) or not shutil.which("gcc")
    copy = shutil.copytree(source, tmp_path / "source", symlinks=True, ignore=shutil.ignore_patterns("build", "*.so"))
    assert not kernels_in(built(copy, tmp_path, CC="no-such-compiler"))


def test_wheel_holds_one_top_level_package_and_all_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rxrl"}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in folder(package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so", ".c", ".h")
    }
    assert expected <= set(names)
    assert {"rxrl/py.typed", "rxrl/curricula/general.yaml"} <= set(names)


def test_installed_wheel_is_imported_from_where_it_is(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    assert sorted(path.name for path in target.iterdir() if not path.name.endswith(".dist-info")) == ["bin", "rxrl"]
    program = (
        "import importlib, importlib.util, sys, rxrl\n"
        f"assert rxrl.__file__.startswith({str(target)!r}), rxrl.__file__\n"
        "from rxrl.curricula import CURRICULA, load_curriculum\n"
        "assert [load_curriculum(name) for name in CURRICULA.built_in]\n"
        f"for package in {PACKAGES!r}: importlib.import_module(package)\n"
        "assert not [name for name in ('envs', 'rewards', 'curricula') if importlib.util.find_spec(name)]\n"
    )
    isolated = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=isolated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.sh") if path.name != "setup.sh"))
def test_scripts_refuse_an_old_python_before_they_make_anything(script: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho Python 3.8.1\nexit 1\n")
    old.chmod(0o755)
    environment = {"PYTHON": str(old), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([str(tmp_path / "scripts" / script)], cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: PYTHON={old} is Python 3.8.1; rxrl needs Python 3.11 or newer.\n"
    assert not (tmp_path / ".venv").exists()
