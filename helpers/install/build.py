"""Building llama-cpp-python from source, in the open: fixed folders, progress, and a log.

pip could do this, but without showing progress, in a new folder each time, and its cache of built
wheels ignores the flags. Here the source and the build folder stay where they are, so that an
interrupted build continues where it stopped and ccache recognises every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import sys
import tarfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from helpers.errors import InstallError
from helpers.files import room_beside
from helpers.install import steps
from helpers.install.backends import BACKENDS, COMMON_FLAGS
from helpers.install.commands import DISTRIBUTION
from helpers.install.flags import is_on, merge, translate, values
from helpers.install.paths import (
    current_system,
    folder_mib,
    make_folder,
    need_space,
    pip_environment,
    venv_python,
)
from helpers.install.requirements import need_compiler, need_tools

# Measured: source 190, build folder 45 to 60, wheel 20, build tools 60 MiB; GPU kernels are large.
BUILD_MIB = {"cuda": 4000, "rocm": 4000, "sycl": 2000, "vulkan": 1200}
_BUILD_MIB_PLAIN = 600
# Measured for the CPU and RPC: processor seconds of all cores together.
_CORE_SECONDS = {"cuda": 5000.0, "rocm": 5000.0, "vulkan": 1500.0}
_CORE_SECONDS_PLAIN = 450.0
_OLDEST_CMAKE = (3, 21)
# With this, -DLLAMA_BUILD_COMMON=off is obeyed.
_LEAN = Path(__file__).with_name("lean.cmake")
_UNUSED = ("vendor/llama.cpp/tools/ui/",)  # 800 web files with paths too long for Windows
NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|getaddrinfo failed"
    r"|Temporary failure in name resolution|Network is unreachable|Max retries exceeded"
    r"|Connection refused"
)
"""What pip prints when it does not reach an index."""
_HOOK = """
import sys
from scikit_build_core.build import build_wheel
build_wheel(sys.argv[1], {"build-dir": sys.argv[2], "build.verbose": "false"})
"""


@dataclass(frozen=True)
class Recipe:
    """All that a build depends on, but the machine."""

    version: str
    backend: str
    flags: tuple[str, ...]

    @property
    def key(self) -> str:
        """A short name for wheels that can take each other's place on this machine."""
        tools = [os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS")]
        lean = _LEAN.read_text(encoding="utf-8")
        machine = [platform.system(), platform.machine(), _cpu()]
        parts = [self.version, *self.flags, lean, *tools, *machine]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def _cpu() -> str:
    """Return what -march=native depends on, so that a shared home folder cannot mix machines."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    seen = re.findall(r"^(?:model name|flags|Features)\s*:.*", text, re.MULTILINE)
    return "\n".join(sorted(set(seen)))


def make_recipe(version: str, backend: str, cmake_args: str | None = None) -> Recipe:
    """Join the backend's flags, the suite's and the user's `CMAKE_ARGS`; say what was translated.

    Raises:
        InstallError: If the user's flags contradict the backend.
    """
    text = os.environ.get("CMAKE_ARGS", "") if cmake_args is None else cmake_args
    users = translate(text)
    for remark in users.remarks:
        steps.say(f"CMAKE_ARGS: {remark}")
    chosen = BACKENDS[backend]
    wanted = tuple(dict.fromkeys((*chosen.cmake_flags, *COMMON_FLAGS)))
    return Recipe(version, backend, merge(wanted, users.flags, backend))


def cmake_flags(recipe: Recipe) -> tuple[str, ...]:
    """Return the recipe's flags, and what makes llama-cpp-python obey them."""
    if is_on(values(recipe.flags).get("LLAMA_BUILD_COMMON", "on")):
        return recipe.flags
    return (*recipe.flags, f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={_LEAN.as_posix()}")


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _cmake_is_new_enough() -> bool:
    match = re.search(r"(\d+)\.(\d+)", steps.ask("cmake", "--version") or "")
    return bool(match and (int(match[1]), int(match[2])) >= _OLDEST_CMAKE)


def explain(outcome: steps.Outcome, what: str) -> InstallError:
    """Turn the outcome of a failed step into one line and the log's last lines."""
    text = "\n".join(outcome.tail)
    with contextlib.suppress(OSError):
        text = outcome.log.read_text(encoding="utf-8", errors="replace")
    if re.search(r"No space left on device|Errno 28|not enough space", text):
        return InstallError(f"{what}: no space is left on the disk; make room and run it again")
    if NO_NETWORK.search(text):
        return InstallError(
            f"{what}: the package index cannot be reached; check the network (or the proxy in "
            f"pip's configuration) and run the same command again. Log: {outcome.log}"
        )
    last = [line for line in outcome.tail if re.search(r"(?i)\berror\b", line)]
    cause = (last[-1] if last else outcome.tail[-1] if outcome.tail else "no output").strip()
    return InstallError(f"{what} failed: {cause[:300]} (whole log: {outcome.log})")


def _tools(cache: Path, hold: int | None) -> Path:
    """Make (once) the environment that holds the build tools, and return its Python."""
    folder = cache / "tools-{}.{}".format(*sys.version_info[:2])
    python, mark = venv_python(folder), folder / "ready"
    wanted = ["scikit-build-core[pyproject]>=0.9.2"]
    if not _cmake_is_new_enough():
        wanted.append("cmake>=3.21")
    if shutil.which("ninja") is None and current_system() != "windows":
        wanted.append("ninja>=1.5")
    if python.exists() and mark.exists() and mark.read_text(encoding="utf-8") == repr(wanted):
        return python
    venv.EnvBuilder(clear=True, with_pip=True).create(folder)
    outcome = steps.run(
        [str(python), "-m", "pip", "install", *wanted],
        title="Installing build tools",
        log=cache / "logs" / "tools.log",
        env=pip_environment(),
        hold=hold,
    )
    if outcome.status:
        raise explain(outcome, "Installing the build tools")
    mark.write_text(repr(wanted), encoding="utf-8")
    return python


def _inner(member: tarfile.TarInfo) -> Path | None:
    """Where an entry goes inside the archive's one folder; None if that would be elsewhere."""
    name = member.name.partition("/")[2]
    # As Windows reads them, which knows more ways out.
    anchors = [PureWindowsPath(path).anchor for path in (member.name, name)]
    out = any(anchors) or ".." in PurePosixPath(member.name).parts or "\\" in member.name
    return None if out or not (member.isfile() or member.isdir()) else Path(name)


def unpack(archive: Path, into: Path) -> Path:
    """Unpack an sdist as `into`, which then holds what the archive's one folder held.

    Not by `tarfile`'s own `extractall`: before Python 3.11.4, and so on the oldest that the suite
    runs on, it follows links, hands files to strangers, and takes a path such as `x//etc/passwd`.

    Raises:
        InstallError: If the archive is damaged or would write outside its folder.
    """
    try:
        with room_beside(into) as room, tarfile.open(archive) as tar:
            room.mkdir()
            for member in tar:
                inner = _inner(member)
                if inner is None:
                    raise InstallError(f"{archive} holds an unsafe entry, {member.name!r}")
                if inner == Path() or inner.as_posix().startswith(_UNUSED):
                    continue
                path = room / inner
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                with content, path.open("xb") as file:
                    shutil.copyfileobj(content, file)
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
            shutil.rmtree(into, ignore_errors=True)
            room.rename(into)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InstallError(
            f"{archive} cannot be unpacked ({error}): delete it and run the command again"
        ) from None
    return into


def source_folder(
    version: str, cache: Path, python: Path | None = None, hold: int | None = None
) -> Path:
    """Return the unpacked source of one version of llama-cpp-python, fetching it if necessary.

    Args:
        version: Exact version.
        cache: The suite's cache folder.
        python: A Python whose pip fetches it and that has the build tools; None makes one.
        hold: Lock to hand down.

    Raises:
        InstallError: If it cannot be fetched or unpacked.
    """
    folder = cache / "src" / f"llama_cpp_python-{version}"
    if (folder / "CMakeLists.txt").exists():
        return folder
    archive = source_archive(version, cache, python, hold)
    make_folder(cache / "src", "the source")
    steps.say("Unpacking the source ...")
    return unpack(archive, folder)


def keep_archive(archive: Path, cache: Path) -> None:
    """Put a source that came by another way where a build looks for it."""
    target = make_folder(cache / "sdist", "the source") / archive.name
    with room_beside(target) as room:
        shutil.copyfile(archive, room)
        room.replace(target)


def source_archive(
    version: str, cache: Path, python: Path | None = None, hold: int | None = None
) -> Path:
    """Return the source of one version as it is published, fetching it if necessary.

    Raises:
        InstallError: If it cannot be fetched.
    """
    sdists = make_folder(cache / "sdist", "the source")
    archive = sdists / f"llama_cpp_python-{version}.tar.gz"
    if not archive.exists():
        python = python or _tools(cache, hold)
        partial = make_folder(sdists / "partial", "the source")
        command = [str(python), "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", DISTRIBUTION, f"{DISTRIBUTION}=={version}", "-d", str(partial)]
        outcome = steps.run(
            command,
            title=f"Fetching the source of {DISTRIBUTION} {version} (74 MiB)",
            log=cache / "logs" / "sdist.log",
            env=_build_environment(python, ()),
            hold=hold,
        )
        found = sorted(partial.glob("*.tar.gz"))
        if outcome.status or not found:
            raise explain(outcome, f"Fetching the source of {DISTRIBUTION} {version}")
        found[0].replace(archive)
        shutil.rmtree(partial, ignore_errors=True)
    return archive


def _build_environment(
    python: Path, flags: Sequence[str], cache: Path | None = None
) -> dict[str, str]:
    env = pip_environment()
    env["PATH"] = str(python.parent) + os.pathsep + env.get("PATH", "")
    env["CMAKE_ARGS"] = " ".join(_shell_quote(flag) for flag in flags)
    env.pop("FORCE_CMAKE", None)
    env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(cores()))
    # On Windows, ninja needs a shell in which the compiler is on PATH; Visual Studio does not.
    on_path = current_system() != "windows" or shutil.which("cl") or shutil.which("g++")
    if on_path and shutil.which("ninja", path=env["PATH"]):
        env.setdefault("CMAKE_GENERATOR", "Ninja")
    if cache is not None:
        # ccache then recognises the same source under another cache folder.
        env.setdefault("CCACHE_BASEDIR", str(cache))
        env.setdefault("CCACHE_NOHASHDIR", "1")
    return env


def _shell_quote(word: str) -> str:
    return (
        word if re.fullmatch(r"[\w@%+=:,./\\-]+", word) else "'" + word.replace("'", "'\\''") + "'"
    )


def cached_wheel(recipe: Recipe, cache: Path) -> Path | None:
    """Return the wheel that an earlier build of this recipe left, or None."""
    found = sorted((cache / "wheels" / recipe.key).glob("*.whl"))
    return found[0] if found else None


def build_wheel(recipe: Recipe, cache: Path, hold: int | None = None) -> Path:
    """Build (or take from the cache) the wheel of one recipe and return its path.

    Raises:
        InstallError: If anything that the build needs is missing, or it fails.
    """
    kept = cached_wheel(recipe, cache)
    if kept:
        steps.say(f"Using the {DISTRIBUTION} {recipe.version} built earlier: {kept}")
        return kept
    need_compiler()
    need_tools(recipe.backend)
    build = cache / "build" / recipe.key
    have = folder_mib(cache) if cache.exists() else 0.0
    room = BUILD_MIB.get(recipe.backend, _BUILD_MIB_PLAIN) - round(have)
    need_space(cache, max(100, room), f"Building {DISTRIBUTION}")
    python = _tools(cache, hold)
    source = source_folder(recipe.version, cache, python, hold)
    # CMake installs into the source folder as well, and the wheel packs what it finds there:
    # libraries of an earlier build for another backend must not travel with this one.
    shutil.rmtree(source / "llama_cpp" / "lib", ignore_errors=True)
    out = make_folder(cache / "wheels" / f"{recipe.key}.partial", "the built wheel")
    work = cores()
    expected = _CORE_SECONDS.get(recipe.backend, _CORE_SECONDS_PLAIN) / work
    steps.say(f"CMake flags: {' '.join(recipe.flags)}")
    outcome = steps.run(
        [str(python), "-c", _HOOK, str(out), str(build)],
        title=f"Building {DISTRIBUTION} {recipe.version} on {work} cores",
        log=cache / "logs" / f"build-{recipe.key}.log",
        env=_build_environment(python, cmake_flags(recipe), cache),
        cwd=source,
        read=steps.read_ninja,
        expected=expected,
        hold=hold,
    )
    made = sorted(out.glob("*.whl"))
    if outcome.status or not made:
        for line in outcome.tail:
            steps.say(f"  | {line}")
        raise _explain_build(outcome, recipe)
    kept_folder = out.with_name(recipe.key)
    shutil.rmtree(kept_folder, ignore_errors=True)
    out.rename(kept_folder)
    shutil.rmtree(build, ignore_errors=True)
    return kept_folder / made[0].name


def _explain_build(outcome: steps.Outcome, recipe: Recipe) -> InstallError:
    text = outcome.log.read_text(encoding="utf-8", errors="replace")
    for failure in BACKENDS[recipe.backend].failures:
        if failure.symptom in text:
            return InstallError(
                f"Building {DISTRIBUTION} for {recipe.backend} failed: {failure.cause}. "
                f"{failure.fix}. Log: {outcome.log}"
            )
    if re.search(r"Killed signal|out of memory|Cannot allocate memory", text):
        return InstallError(
            f"Building {DISTRIBUTION} ran out of memory: run it again with "
            f"CMAKE_BUILD_PARALLEL_LEVEL=1. Log: {outcome.log}"
        )
    return explain(outcome, f"Building {DISTRIBUTION}")
