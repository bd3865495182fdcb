"""Keys: a file with one line for each learner, in which only the hashes of keys stand."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from helpers.errors import HelpersError
from helpers.serve.settings import KeyLimits

_log = logging.getLogger("helpers.serve")

PREFIX = "lln-"
"""What each key begins with, so that one that was pasted somewhere is recognised as one."""

_NAME = re.compile(r"[\w.@+-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LIMIT = re.compile(r"(in_flight|tokens_per_minute)=(\d{1,10})")
_TEACHER = "teacher"
_HEAD = "# name, SHA-256 of the key, limits; written by `python -m helpers serve keys`\n"


@dataclass(frozen=True)
class Key:
    """Who asks, and what they may use.

    Attributes:
        name: Name of the learner.
        digest: SHA-256 of the key, in hex; empty where there are no keys.
        limits: What they may use; None for the server's own.
        teacher: Whether they may see the page, its figures and the metrics.
    """

    name: str
    digest: str = ""
    limits: KeyLimits | None = None
    teacher: bool = False

    def line(self) -> str:
        """The key's line in the file."""
        words = [self.name, self.digest]
        if self.limits is not None:
            words.append(f"in_flight={self.limits.in_flight}")
            words.append(f"tokens_per_minute={self.limits.tokens_per_minute}")
        return " ".join([*words, *([_TEACHER] if self.teacher else [])]) + "\n"


class KeyStore(Protocol):
    """Who a key belongs to. `KeyFile` is one; a JupyterHub's users can be another."""

    async def find(self, secret: str) -> Key | None:
        """The owner of a key; None if nobody has it."""
        ...


def digest_of(secret: str) -> str:
    """What is kept of a key.

    SHA-256 and no slow hash: those make guessing a password dear, because people choose it among
    few. A key has 256 random bits, which nobody guesses, however fast the hash; and it is computed
    for each request.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class KeyFile:
    """The keys in a file, read again whenever it has changed.

    A file that is missing or cannot be read lets nobody in; a line that makes no sense is left out,
    and the log says so.

    Args:
        path: The file.
        limits: What a key may use whose line does not say.
    """

    def __init__(self, path: str | os.PathLike[str], limits: KeyLimits | None = None) -> None:
        self.path = Path(path).expanduser()
        self._limits = limits or KeyLimits()
        self._state: tuple[int, ...] | None = None
        self._keys: list[Key] = []

    async def find(self, secret: str) -> Key | None:
        """The owner of a key; None if nobody has it."""
        digest, found = digest_of(secret), None
        for key in self.keys():  # to the end, and each compared as a whole: time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def keys(self) -> list[Key]:
        """All keys, as the file says now."""
        try:
            now = self.path.stat()
            state = (now.st_mtime_ns, now.st_size, now.st_ino)
            if state != self._state:
                self._keys, self._state = self.read(), state
        except (OSError, HelpersError, UnicodeDecodeError) as error:
            if self._keys or self._state is None:
                _log.error("the file of keys cannot be used, nobody is let in: %s", error)
            self._state, self._keys = (), []
        return self._keys

    def read(self) -> list[Key]:
        """The keys in the file.

        Raises:
            HelpersError: Others may write to it.
            OSError: It cannot be read.
        """
        if os.name == "posix" and self.path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise HelpersError(
                f"{self.path.name} can be written to by others, who could give themselves a key. "
                f"Run: chmod 600 {self.path.name}"
            )
        found: dict[str, Key] = {}
        for number, line in enumerate(self.path.read_text("utf-8").splitlines(), 1):
            words = line.partition("#")[0].split()
            if words:
                try:
                    key = self._key(words)
                    if key.name in found:
                        raise ValueError(f"there is a key of {key.name!r} above")
                    found[key.name] = key
                except ValueError as error:
                    _log.warning("line %d of %s is left out: %s", number, self.path.name, error)
        return list(found.values())

    def _key(self, words: list[str]) -> Key:
        if len(words) < 2 or not _NAME.fullmatch(words[0]) or not _HASH.fullmatch(words[1]):
            raise ValueError("it must begin with a name and the SHA-256 of a key")
        given: dict[str, int] = {}
        for word in words[2:]:
            limit = _LIMIT.fullmatch(word)
            if limit is not None:
                given[limit[1]] = int(limit[2])
            elif word != _TEACHER:
                raise ValueError(
                    f"{word!r} is neither in_flight=N, tokens_per_minute=N nor {_TEACHER}"
                )
        limits = replace(self._limits, **given) if given else None
        return Key(words[0], words[1], limits, _TEACHER in words[2:])


def add_keys(
    path: Path, names: Iterable[str], *, limits: KeyLimits | None = None, teacher: bool = False
) -> dict[str, str]:
    """Make keys and write their hashes into a file, which is made if need be.

    Args:
        path: The file.
        names: Whose keys.
        limits: What they may use; None for the server's own limits.
        teacher: Whether they may see the teacher's page.

    Returns:
        The keys by name. They stand nowhere else: who loses one gets another.

    Raises:
        HelpersError: A name cannot be one, or has a key already.
    """
    known = {key.name for key in _existing(path)}
    made: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise HelpersError(
                f"{name!r} cannot be the name of a key: 1 to 64 letters, digits and . _ @ + - are "
                "allowed."
            )
        if name in known or name in made:
            raise HelpersError(
                f"{name!r} has a key already. Remove it first (`keys remove {name}`), which ends "
                "it, or choose another name."
            )
        made[name] = PREFIX + secrets.token_urlsafe(32)
    text = path.read_text("utf-8") if path.exists() else _HEAD
    text += "" if text.endswith("\n") or not text else "\n"
    keys = [Key(name, digest_of(key), limits, teacher) for name, key in made.items()]
    _write(path, text + "".join(key.line() for key in keys))
    return made


def remove_keys(path: Path, names: Iterable[str]) -> None:
    """Take keys out of a file; a running server refuses them from then on.

    Raises:
        HelpersError: There is no such key; nothing is removed then.
    """
    wanted = set(names)
    known = [key.name for key in _existing(path)]
    if missing := sorted(wanted - set(known)):
        there = f"There are {', '.join(known)}." if known else "There are none."
        raise HelpersError(f"{missing[0]!r} has no key in {path.name}. {there}")
    lines = path.read_text("utf-8").splitlines(keepends=True)
    _write(path, "".join(line for line in lines if (line.split() or [""])[0] not in wanted))


def _existing(path: Path) -> list[Key]:
    return KeyFile(path).read() if path.exists() else []


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole, for its owner alone: a server never reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
