"""Why changed flags can do nothing: pip's cache of built wheels, shown with a package of seconds.

pip keeps the wheel that it built from a source, under the source's name and version. What was in
`CMAKE_ARGS` is not part of that name. A package that does nothing but remember the flags it was
built with shows it in seconds; llama-cpp-python behaves the same, only slowly.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import InstallError
from helpers.install.paths import pip_environment

_NAME = "flags_remembered"
_SOURCE = {
    "pyproject.toml": """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
""",
    "PKG-INFO": "Metadata-Version: 2.1\nName: flags_remembered\nVersion: 1.0\n",
    "backend.py": '''\
"""A build backend that writes the flags of this build into the package."""
import os
import zipfile

INFO = "flags_remembered-1.0.dist-info"


def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "flags_remembered-1.0-py3-none-any.whl"
    files = {
        "flags_remembered.py": f"FLAGS = {os.environ.get('CMAKE_ARGS', '')!r}\\n",
        f"{INFO}/METADATA": "Metadata-Version: 2.1\\nName: flags_remembered\\nVersion: 1.0\\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\\nGenerator: backend\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n",
    }
    record = "".join(f"{path},,\\n" for path in [*files, f"{INFO}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in {**files, f"{INFO}/RECORD": record}.items():
            wheel.writestr(path, text)
    return name
''',
}


@dataclass(frozen=True)
class Installation:
    """One `pip install` of the practice package.

    Attributes:
        options: What was added to the line.
        flags: `CMAKE_ARGS` when it ran.
        installed: The flags that the installed package was built with.
        built: True if pip built it, False if it took what it had.
    """

    options: tuple[str, ...]
    flags: str
    installed: str
    built: bool

    @property
    def obeyed(self) -> bool:
        """True if the flags that were set are those that were built in."""
        return self.flags == self.installed

    def __str__(self) -> str:
        """Return one line."""
        line = f"CMAKE_ARGS={self.flags} pip install {' '.join(self.options)}".rstrip()
        how = "built" if self.built else "taken from pip's cache, or left as it was"
        return f"{line}\n    -> {how}: the package has {self.installed}"


def _archive(folder: Path) -> Path:
    path = folder / f"{_NAME}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in _SOURCE.items():
            raw = text.encode()
            member = tarfile.TarInfo(f"{_NAME}-1.0/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return path


def _install(folder: Path, options: tuple[str, ...], flags: str) -> Installation:
    target = folder / "target"
    # --target stands for an environment of its own; --upgrade lets pip replace what is there.
    command = [sys.executable, "-m", "pip", "install", "--target", str(target), "--upgrade"]
    command += ["--no-index", "--find-links", str(folder / "index"), *options, _NAME]
    env = {**pip_environment(), "CMAKE_ARGS": flags, "PIP_CACHE_DIR": str(folder / "cache")}
    for name in ("PIP_NO_CACHE_DIR", "PIP_NO_BINARY", "PIP_TARGET"):
        env.pop(name, None)
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    written = target / f"{_NAME}.py"
    if done.returncode or not written.exists():
        raise InstallError(f"pip could not install the practice package: {done.stderr[-300:]}")
    text = written.read_text(encoding="utf-8").partition("=")[2].strip().strip("'\"")
    return Installation(options, flags, text, "Building wheel" in done.stdout)


def try_pip_cache() -> tuple[Installation, ...]:
    """Install a practice package three times: at first, with new flags, and past pip's cache.

    Nothing outside a temporary folder is touched, and no network is used.

    Returns:
        The three installations: the second shows the trap, the third the way out.

    Raises:
        InstallError: If pip cannot install at all.

    >>> [trial.obeyed for trial in try_pip_cache()]  # doctest: +SKIP
    [True, False, True]
    """
    anew = ("--force-reinstall", "--no-cache-dir")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "index").mkdir()
        (folder / "cache").mkdir()
        _archive(folder / "index")
        return (
            _install(folder, (), "-DGGML_CUDA=off"),
            _install(folder, (), "-DGGML_CUDA=on"),
            _install(folder, anew, "-DGGML_CUDA=on"),
        )
