"""A kit, as a learner's machine reads it: wheels, models and the suite, in one folder or served.

`helpers/kit` makes and serves kits. Here there is nothing but the standard library yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from helpers.errors import InstallError
from helpers.install.paths import claim_cache, current_system, make_folder, need_space
from helpers.install.steps import say

MANIFEST, SUMS = "kit.json", "SHA256SUMS"
FORMAT = 1
MIB = 2**20
_TIMEOUT_SECONDS = 30
_TRIES = 8
# The room's server is in the room: a proxy for the internet would not find it.
_OPENER = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class Kit:
    """What a kit has for this machine and this Python.

    Attributes:
        folder: Where its files are: the kit itself, or what was fetched of a served one.
        fingerprint: Of the suite that it was made for.
        backend: What its llama-cpp-python runs on.
        llama: llama-cpp-python: a wheel, or its source where no wheel could be had.
        note: What this one is, and what it needs.
        models: Its further models.
    """

    folder: Path
    fingerprint: str
    backend: str
    llama: Path
    note: str
    models: tuple[Mapping[str, Any], ...]

    @property
    def wheel(self) -> Path | None:
        """llama-cpp-python's wheel; None where it has to be built."""
        return self.llama if self.llama.suffix == ".whl" else None

    @contextmanager
    def instead_of_index(self) -> Iterator[None]:
        """Let every pip that is started meanwhile find packages in the kit and nowhere else."""
        # An address, because pip splits this variable at blanks, which a stick's name may have.
        ours = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (self.folder / "wheels").as_uri()}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def this_machine() -> tuple[str, str]:
    """Return this machine and this Python as kits name them, e.g. `linux-x86_64` and `3.12`."""
    here = kit_name(current_system(), platform.machine())
    return here, "{}.{}".format(*sys.version_info[:2])


def kit_name(system: str, machine: str) -> str:
    """Return a system (`linux`, `macos`, `windows`) and its processor as kits name them.

    >>> kit_name("windows", "AMD64")
    'windows-x86_64'
    """
    machine, arm = machine.lower(), "arm64" if system == "macos" else "aarch64"
    known = {"amd64": "x86_64", "arm64": arm, "aarch64": arm}
    return f"{system}-{known.get(machine, machine)}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a kit, by its path inside.

    Raises:
        InstallError: If the folder is no kit, or its list names files outside.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InstallError(
            f"{folder} is not a kit (it has no {SUMS}): name the folder that "
            "python3 -m helpers kit made"
        ) from None
    sums = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        name = match[2] if match else ""
        out = "\\" in name or PureWindowsPath(name).anchor or ".." in PurePosixPath(name).parts
        if match is None or out:
            raise InstallError(f"{folder / SUMS} is damaged or unsafe at {line[:120]!r}")
        sums[name] = match[1]
    return sums


def faults(folder: Path, names: Iterable[str], sums: Mapping[str, str]) -> list[str]:
    """Say which of a kit's files are missing or damaged."""
    found = []
    for name in names:
        try:
            whole = sha256(folder / name) == sums.get(name)
            fault = "" if whole else "is damaged (its SHA-256 differs)"
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            fault = "is missing" if missing else f"cannot be read ({error.strerror})"
        found += [f"{name} {fault}"] if fault else []
    return found


def _need_whole(folder: Path, names: Iterable[str], sums: Mapping[str, str]) -> None:
    found = faults(folder, names, sums)
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise InstallError(
            f"in the kit {folder}, {'; '.join(found[:5])}{more}: python3 -m helpers kit with this "
            "folder, where it was made, copies what is missing or damaged again"
        )


def read_manifest(folder: Path, sums: Mapping[str, str]) -> dict[str, Any]:
    """Return what a kit says that it is.

    Raises:
        InstallError: If it is damaged, or of a form that this suite does not know.
    """
    _need_whole(folder, [MANIFEST], sums)
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("kit") != FORMAT:
        raise InstallError(
            f"{folder} is a kit of form {manifest.get('kit')}, and this suite knows form {FORMAT}: "
            "take the suite.zip that lies in it"
        )
    return manifest


def check(folder: Path) -> int:
    """Compare every file of a kit with its sum, and say what is wrong; 0 if nothing is.

    Raises:
        InstallError: If it is no kit, or files are missing or damaged.
    """
    folder = folder.expanduser().resolve()
    sums = read_sums(folder)
    sizes = read_manifest(folder, sums)["sizes"]
    say(f"Reading {len(sums)} files, {sum(sizes.values()) / MIB:,.0f} MiB ...")
    _need_whole(folder, sums, sums)
    say("The kit is whole.")
    return 0


def open_kit(place: str, model: str | None = None, *, wheels: bool = True) -> Kit:
    """Find in a kit what this machine needs, and see that it is whole.

    Args:
        place: A folder, or the address that `kit --serve` printed: from there, what is needed
            comes into the suite's cache, and an interrupted file goes on where it stopped.
        model: Name of one of its further models that is needed, too.
        wheels: Whether wheels are needed; False where the environment is made.

    Raises:
        InstallError: If it is no kit, has nothing for this machine, is damaged, or does not answer.
    """
    served = place.startswith(("http://", "https://"))
    address, _, promised = place.partition("#") if served else (place, "", "")
    folder = Path(address).expanduser().resolve()
    if served:
        folder = make_folder(claim_cache() / "kit", "what is fetched of the kit")
        _fetch(address, SUMS, folder, None)
        if not sha256(folder / SUMS).startswith(promised):
            raise InstallError(
                f"{address} serves another kit than the one whose line you were given: compare "
                "the line with your teacher's, digits included"
            )
    sums = read_sums(folder)
    if served:
        _fetch(address, MANIFEST, folder, sums)
    manifest = read_manifest(folder, sums)
    system, python = this_machine()
    targets = {(target["system"], target["python"]): target for target in manifest["targets"]}
    if (system, python) not in targets:
        has = ", ".join(f"Python {number} on {name}" for name, number in targets)
        raise InstallError(
            f"{address} has nothing for Python {python} on {system}; it is for {has}. Use one of "
            f"these, or make a kit with --systems {system} --pythons {python}"
        )
    llama, models = manifest["llama"][system], tuple(manifest["models"])
    names = [*targets[system, python]["files"], llama["file"]] if wheels else []
    for entry in models:
        stems = [PurePosixPath(entry["files"][0]).name, PurePosixPath(entry["files"][0]).stem]
        if model is not None and model.lower() in map(str.lower, (entry["name"], *stems)):
            names += entry["files"]
    if served:
        _fetch_all(address, names, folder, sums, manifest["sizes"])
    else:
        if names:
            say(f"Reading {len(names)} files of the kit, for Python {python} on {system} ...")
        _need_whole(folder, names, sums)
    return Kit(
        folder, manifest["fingerprint"], llama["backend"], folder / llama["file"], llama["note"],
        models,
    )  # fmt: skip


def _fetch_all(
    address: str, names: list[str], folder: Path, sums: dict[str, str], sizes: Mapping[str, int]
) -> None:
    absent = [name for name in names if faults(folder, [name], sums)]
    total = sum(sizes[name] for name in absent)
    if not absent:
        return
    say(f"Fetching {len(absent)} files, {total / MIB:,.0f} MiB, from {address}")
    need_space(folder, total // MIB + 1, "What is fetched of the kit")
    done, told = 0, time.monotonic()
    for name in absent:
        _fetch(address, name, folder, sums)
        done += sizes[name]
        if time.monotonic() - told > 5:
            say(f"  {100 * done // total} %")
            told = time.monotonic()


def _fetch(address: str, name: str, folder: Path, sums: Mapping[str, str] | None) -> None:
    """Fetch one file, going on where an earlier try stopped; without sums, take what comes."""
    url, target = f"{address.rstrip('/')}/{quote(name)}", folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    if sums is None:
        part.unlink(missing_ok=True)
    left, reached, reason = _TRIES, 0, ""
    while left:
        left -= 1
        have = part.stat().st_size if part.exists() else 0
        try:
            headers = {"Range": f"bytes={have}-"} if have else {}
            with _OPENER.open(Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as answer:
                have = have if answer.status == 206 else 0
                with part.open("ab" if have else "wb") as file:
                    shutil.copyfileobj(answer, file, MIB)
                expected = have + int(answer.headers["Content-Length"] or 0)
        except HTTPError as error:
            if error.code not in (416, 503):
                raise InstallError(
                    f"{url} answers {error.code} ({error.reason}): is that the address which "
                    "python3 -m helpers kit --serve printed?"
                ) from None
            # 416: there is no more, so that what is here can be judged.
            expected, reason = have if error.code == 416 else have + 1, "the server is busy"
        except (OSError, HTTPException) as error:
            expected, reason = have + 1, str(getattr(error, "reason", None) or error)
        now = part.stat().st_size if part.exists() else 0
        if now < expected:  # the connection ended; what came is kept
            # More than ever before is new patience: a server without ranges begins anew each time.
            left, reached = (_TRIES if now > reached else left), max(now, reached)
            time.sleep(min(2 ** (_TRIES - left) / 8, 5))
        elif sums is None or sha256(part) == sums.get(name):
            part.replace(target)
            return
        else:
            part.unlink()
            reason = "other bytes came than the kit's list announces"
    raise InstallError(
        f"{url} cannot be fetched ({reason}): check the network of the room, and run the same "
        "command again; what has come is kept"
    )
