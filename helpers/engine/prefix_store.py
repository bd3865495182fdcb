"""The computed states of prompts in a folder: found by their tokens, checked, bounded in size.

A file is named after its key (model and settings), the first `SHORTEST` tokens and all of them, so
that few are opened to find the one that shares most with a prompt. It appears whole, by a rename,
and ends with a hash of all before: what a crash, a full disk or anybody else left there is found
before llama.cpp sees it. So nothing waits for the disk: after a power cut a file may be lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from helpers.errors import HelpersError
from helpers.install.paths import claim_cache, prefix_folder

SHORTEST = 512
"""Fewest tokens worth a file, and fewest new ones: a second of computing, or 12 MB of a model with
135 million weights. Below that, reading the file and looking for it saves too little to see."""

_HEAD = struct.Struct("<8s32sIIQ")  # magic, key, tokens, those computed in tiles, bytes of state
_MAGIC = b"prefix\r\n"
_END = hashlib.sha256().digest_size
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{16}\.prefix|\.[0-9a-f]{16}\.part")
_ABANDONED = 3600.0
"""Seconds after which nobody writes to a part any more."""

State = npt.NDArray[np.uint8]


class Kept(NamedTuple):
    """A file, and the beginning of it."""

    path: Path
    tokens: list[int]
    tiled: int
    n_bytes: int


class PrefixStore:
    """Keeps states under one key.

    Args:
        folder: Made if it is not there, for its owner alone.
        limit: Most bytes of all files in it, whatever their key.
        key: Hexadecimal digits; states under another key are as good as not there.

    Raises:
        HelpersError: Others may write to the folder.
        OSError: It cannot be made, or not be written to.
    """

    def __init__(self, folder: str, limit: int, key: str) -> None:
        self.limit = limit
        self._folder = Path(folder)
        self._key = hashlib.sha256(key.encode()).digest()
        self._seen: dict[str, Kept] = {}
        if self._folder == prefix_folder():
            claim_cache()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "geteuid"):
            state = self._folder.stat()
            if state.st_uid != os.geteuid() or state.st_mode & 0o022:
                raise HelpersError(
                    f"others may write to {self._folder}, and what is read there is trusted. "
                    f"Name a folder of your own, or close this one: chmod 700 {self._folder}"
                )
        probe = self._part()
        probe.touch(0o600)
        probe.unlink()

    def find(self, tokens: list[int]) -> tuple[Kept, int] | None:
        """The file that has most of the beginning of a prompt, and how many tokens of it.

        Raises:
            HelpersError: A file is damaged; it is removed.
        """
        if len(tokens) < SHORTEST:
            return None
        names = [path.name for path, _ in self._files()]
        beginning = self._name(tokens).rpartition("-")[0]
        found = [self._begin(name) for name in names if name.startswith(beginning)]
        ranked = [(_shared(kept.tokens, tokens), kept) for kept in found if kept is not None]
        if not ranked:
            return None
        shared, best = max(ranked, key=lambda pair: (pair[0], -pair[1].n_bytes))
        return best, shared

    def read(self, kept: Kept) -> State | None:
        """The state in a file, which counts as used now; None if it is gone.

        Raises:
            HelpersError: It is damaged; it is removed.
        """
        try:
            with kept.path.open("rb") as file:
                raw = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
                whole = file.readinto(raw.data) == raw.size
            with contextlib.suppress(OSError):
                os.utime(kept.path)
        except OSError:
            return None
        head = self._head(kept.tokens, kept.tiled, kept.n_bytes)
        if (
            not whole
            or raw.size != len(head) + kept.n_bytes + _END
            or raw[: len(head)].tobytes() != head
            or hashlib.sha256(raw[:-_END].data).digest() != raw[-_END:].tobytes()
        ):
            self._refuse(kept.path)
        return raw[len(head) : -_END]

    def write(self, tokens: list[int], tiled: int, state: State, instead: Kept | None) -> None:
        """Keep a state, and remove what was not used for the longest time where it is too much.

        Args:
            tokens: What was computed.
            tiled: How many of them in tiles, from the first on.
            state: The state.
            instead: A file whose use this one has, too.

        Raises:
            OSError: The disk is full, or the like.
        """
        head = self._head(tokens, tiled, state.size)
        digest = hashlib.sha256()
        self._make_room(len(head) + state.size + _END)
        part = self._part()
        try:
            with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                for piece in (head, state.data):
                    digest.update(piece)
                    file.write(piece)
                file.write(digest.digest())
            part.replace(self._folder / self._name(tokens))
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        if instead is not None and instead.path.name != self._name(tokens):
            with contextlib.suppress(OSError):
                instead.path.unlink()
        self._make_room(0)  # again: another process may have written meanwhile

    def _make_room(self, n_bytes: int) -> None:
        files = sorted(self._files(), key=lambda pair: pair[1].st_mtime)
        total = n_bytes + sum(state.st_size for _, state in files)
        old = time.time() - _ABANDONED
        for path, state in files:
            if total > self.limit or (path.suffix == ".part" and state.st_mtime < old):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= state.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What is the suite's in the folder, of any key; nothing else there is ever touched."""
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        yield Path(entry.path), entry.stat(follow_symlinks=False)

    def _begin(self, name: str) -> Kept | None:
        """The tokens of a file; read once, as a name stands for them. None if it is gone."""
        if name in self._seen:
            return self._seen[name]
        path = self._folder / name
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(_HEAD.size)
                magic, key, count, tiled, n_bytes = (
                    _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", b"", 0, 0, 0)
                )
                fits = _HEAD.size + 4 * count + n_bytes + _END == size and tiled <= count
                known = fits and (magic, key) == (_MAGIC, self._key)
                tokens = np.frombuffer(file.read(4 * count if known else 0), "<i4").tolist()
        except OSError:
            return None
        if not known or self._name(tokens) != name:
            self._refuse(path)
        kept = self._seen[name] = Kept(path, tokens, tiled, n_bytes)
        return kept

    def _head(self, tokens: list[int], tiled: int, n_bytes: int) -> bytes:
        head = _HEAD.pack(_MAGIC, self._key, len(tokens), tiled, n_bytes)
        return head + np.array(tokens, "<i4").tobytes()

    def _refuse(self, path: Path) -> None:
        self._seen.pop(path.name, None)
        with contextlib.suppress(OSError):
            path.unlink()
        raise HelpersError(f"{path} is damaged, or not what its name says: it was removed")

    def _name(self, tokens: list[int]) -> str:
        words = [np.array(some, "<i4").tobytes() for some in (tokens[:SHORTEST], tokens)]
        parts = [self._key, *(hashlib.sha256(self._key + word).digest() for word in words)]
        return "-".join(part[:8].hex() for part in parts) + ".prefix"

    def _part(self) -> Path:
        return self._folder / f".{secrets.token_hex(8)}.part"


def _shared(kept: list[int], tokens: list[int]) -> int:
    """Length of the common beginning."""
    length = min(len(kept), len(tokens))
    different = np.flatnonzero(np.array(kept[:length]) != np.array(tokens[:length]))
    return int(different[0]) if different.size else length
