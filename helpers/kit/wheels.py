"""The suite's packages as wheels, for other systems and Pythons than this one, too.

pip's `--platform` chooses files for another system, but reads the conditions of requirements
(`; sys_platform == "win32"`) as if for this one. So the requirements are followed here, by
`packaging`, and pip fetches what it is told. `constraints.txt` has nearly all versions; there is
nothing to resolve.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from email import message_from_bytes
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from helpers.install import build, steps, wheels
from helpers.install.detect import Machine, wheel_index
from helpers.install.environment import source_only
from helpers.install.installed import libraries
from helpers.install.kit import this_machine
from helpers.install.paths import pip_environment, site_packages
from helpers.kit.targets import SYSTEMS, Target

_ABSENT = re.compile(r"No matching distribution found for ([\w.-]+)")
# What llama-cpp-python's source needs: see `helpers.install.build`.
BUILD_TOOLS = ("scikit-build-core[pyproject]>=0.9.2", "cmake>=3.21", "ninja>=1.5")


def _tags(target: Target) -> frozenset[Tag]:
    if target.is_here:
        return frozenset(sys_tags())
    system, version = SYSTEMS[target.system], tuple(map(int, target.python.split(".")))
    platforms = list(system.platforms)
    if system.name == "macos":
        platforms = list(mac_platforms((14, 0), system.machine))
    interpreter = f"cp{target.python.replace('.', '')}"
    return frozenset(
        [
            *cpython_tags(version, platforms=platforms),
            *compatible_tags(version, interpreter, platforms),
        ]
    )


def _conditions(target: Target) -> dict[str, str]:
    found = {name: str(value) for name, value in default_environment().items()}
    if not target.is_here:
        names = ("sys_platform", "platform_system", "os_name", "platform_machine")
        found |= dict(zip(names, SYSTEMS[target.system].markers, strict=True))
        found |= {"python_version": target.python, "python_full_version": f"{target.python}.0"}
    return found


def requires(package: Path) -> list[str]:
    """Return what a wheel, or a source as it is published, requires."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            info = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            text = archive.read(info)
    else:
        with tarfile.open(package) as source:
            member = source.extractfile(f"{package.name.removesuffix('.tar.gz')}/PKG-INFO")
            assert member is not None
            text = member.read()
    return message_from_bytes(text).get_all("Requires-Dist") or []


def read_pins(constraints: Path) -> dict[str, str]:
    """Return the exact versions that `constraints.txt` names."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("#")[0].partition("==") for line in lines if "==" in line]
    return {canonicalize_name(name.strip()): version.strip() for name, _, version in pairs}


def collect(
    target: Target,
    wanted: Iterable[str],
    pins: Mapping[str, str],
    folder: Path,
    log: Path,
    *,
    follow: bool = True,
) -> tuple[dict[str, Path], list[str]]:
    """Bring the wheels of packages, and of all that they require, into a folder.

    Args:
        target: What they are for.
        wanted: Requirements, as `pyproject.toml` writes them.
        pins: Exact versions by name.
        folder: Where they go, and where those of earlier runs are; for all targets together.
        log: File that gets what pip says.
        follow: Bring what they require, too.

    Returns:
        The wheels by their packages' names, and the packages of which there is none.

    Raises:
        InstallError: If the package index does not answer.
    """
    tags, conditions = _tags(target), _conditions(target)
    found: dict[str, Path] = {}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()

    def applying(lines: Iterable[str], extra: str) -> list[Requirement]:
        read = map(Requirement, lines)
        here = {**conditions, "extra": extra}
        return [r for r in read if r.marker is None or r.marker.evaluate(here)]

    def versions(requirement: Requirement) -> SpecifierSet:
        pin = pins.get(canonicalize_name(requirement.name))
        return SpecifierSet(f"=={pin}") if pin else requirement.specifier

    def look(requirements: Iterable[Requirement]) -> None:
        shelf = [(*parse_wheel_filename(path.name), path) for path in folder.glob("*.whl")]
        for requirement in requirements:
            wanted, allowed = canonicalize_name(requirement.name), versions(requirement)
            fitting = [
                # Of one version, that of this system, as pip takes it: another target's may do too.
                (version, not path.stem.endswith("-any"), path)
                for name, version, _, its, path in shelf
                if name == wanted and its & tags and allowed.contains(version, prereleases=True)
            ]
            if fitting:
                found.setdefault(wanted, max(fitting)[-1])

    level = applying(wanted, "")
    while level:
        look(level)
        new = {canonicalize_name(r.name): f"{r.name}{versions(r)}" for r in level}
        absent = [line for name, line in new.items() if name not in {*found, *missing}]
        missing += _bring(target, absent, folder, log)
        look(level)
        following: list[Requirement] = []
        for requirement in level:
            name = canonicalize_name(requirement.name)
            for extra in ("", *requirement.extras):
                if name in found and (name, extra) not in seen:
                    seen.add((name, extra))
                    following += applying(requires(found[name]), extra)
        level = following if follow else []
    return found, missing


def _bring(target: Target, lines: list[str], folder: Path, log: Path) -> list[str]:
    """Let pip fetch (or, for this machine, make) some wheels; return the names that have none."""
    missing: list[str] = []
    system = SYSTEMS[target.system]
    while lines:
        command = [sys.executable, "-m", "pip", "--no-input"]
        if target.is_here:
            command += ["wheel", "-w", str(folder)]
        else:
            command += ["download", "-d", str(folder), "--only-binary", ":all:"]
            command += ["--implementation", "cp", "--python-version", target.python]
            for tag in system.platforms:
                command += ["--platform", tag]
        outcome = steps.run(
            [*command, "--no-deps", *lines],
            title=f"Fetching {len(lines)} wheels for {target}",
            log=log,
            env=pip_environment(),
        )
        if not outcome.status:
            break
        said = log.read_text(encoding="utf-8", errors="replace")
        absent = _ABSENT.search(said)
        if absent is None or build.NO_NETWORK.search(said):
            raise build.explain(outcome, f"Fetching wheels for {target}")
        missing.append(canonicalize_name(absent[1]))
        lines = [r for r in lines if canonicalize_name(Requirement(r).name) not in missing]
    return missing


def llama(name: str, version: str, cache: Path, folder: Path, hold: int) -> tuple[Path, str]:
    """Return llama-cpp-python for a system, and what a reader must know about it.

    For this system it is built if the suite's own was, because a built one has RPC; else, and for
    other systems, it is a prebuilt wheel; and where none can be had, the source.

    Args:
        name: Name in `SYSTEMS`.
        version: Exact version.
        cache: The suite's cache folder.
        folder: Where wheels of earlier runs are.
        hold: Lock to hand down.

    Raises:
        InstallError: If a build or the download of the source fails.
    """
    system, here = SYSTEMS[name], name == this_machine()[0]
    built = here and (source_only() or "ggml-rpc" in libraries(site_packages(Path(sys.prefix))))
    index = wheel_index(system.backend, Machine(system.name, system.machine))
    reason = "there are none for this system"
    if index is not None and not built:
        store = folder / index / name
        for kept in store.glob(f"*-{version}-*.whl"):
            return kept, "prebuilt"
        tags = () if here else system.platforms
        fetched = wheels.fetch(Path(sys.executable), version, index, cache, hold, tags)
        if isinstance(fetched, Path):
            store.mkdir(parents=True, exist_ok=True)
            return Path(shutil.move(fetched, store)), "prebuilt"
        reason = fetched
    if here:
        # The suite's own build is for this very processor; a kit is for others, too.
        flags = f"{os.environ.get('CMAKE_ARGS', '')} -DGGML_NATIVE=off"
        recipe = build.make_recipe(version, system.backend, flags)
        needs = "a processor with AVX2 and " if system.machine in ("x86_64", "amd64") else ""
        libc = " ".join(platform.libc_ver()) or platform.platform(terse=True)
        note = f"built from source; needs {needs}{libc} or newer"
        return build.build_wheel(recipe, cache, hold), note
    note = f"no prebuilt wheel could be had ({reason}); its source is here, for a C++ compiler"
    return build.source_archive(version, cache, hold=hold), note
