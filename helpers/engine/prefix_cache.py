"""When the computed state of a long prompt is taken from the disk, and when it goes there."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

from helpers.engine.lane import Lane, sequences_at_load
from helpers.engine.prefix_store import SHORTEST, Kept, PrefixStore, State
from helpers.errors import HelpersError
from helpers.load_options import LoadOptions
from helpers.models.check import checked_header
from helpers.models.header import read_header
from helpers.models.trial import files_key
from helpers.native import Model, available_mib, cpu_features, devices

FORMAT = 1
"""Goes up when the same tokens are computed or kept in another way, so that no old file is read."""

_WORTH_READING = 256
"""Tokens that a file must save: fewer are computed in about the time that finding it takes."""

_NO_MATTER = {
    "model_path", "lora_path", "n_parallel", "continuous_batching", "n_threads", "n_threads_batch",
    "use_mmap", "use_mlock", "check_tensors", "no_perf", "isolate", "cache_dir", "cache_dir_mib",
    "speculate",
}  # fmt: skip
"""Options that change no number in a state; the files count by what is in them."""


class PrefixCache:
    """Keeps the prompts of a lane's sequence in a folder.

    Whatever goes wrong costs the use of the disk, and no answer: it becomes a note, once.

    Args:
        model: The loaded model.
        options: How it was loaded; with `cache_dir`.
        key: `prefix_key(options)` from before it was loaded.
    """

    def __init__(self, model: Model, options: LoadOptions, key: str) -> None:
        self._notes: list[str] = []
        self._told: set[str] = set()
        self._writer: threading.Thread | None = None
        self._store: PrefixStore | None = None
        if not model.keeps_every_token:
            self._note(
                "this model's memory of a text cannot be cut off at any token (it is recurrent, or "
                "has a sliding window)"
            )
            return
        try:
            if prefix_key(options) != key:
                raise HelpersError("the model's file was replaced while it was loaded")
            limit = options.cache_dir_mib * 2**20
            self._store = PrefixStore(str(options.cache_dir), limit, key)
        except (OSError, HelpersError) as error:
            self._note(_words(error))

    def take_notes(self) -> tuple[str, ...]:
        """What the user should know since the last time."""
        notes, self._notes = self._notes, []
        return tuple(notes)

    def recall(self, lane: Lane, slot: int, tokens: list[int]) -> None:
        """Read a state into a sequence, if it saves enough of what would be computed."""
        if self._store is None:
            return
        try:
            found = self._store.find(tokens)
            if found is None:
                return
            kept, shared = found
            saved = min(shared, lane.most_reused(tokens)) - lane.shared(tokens)
            # A file may go on for long after what is shared: an eighth of it must be of use.
            if saved < max(_WORTH_READING, len(kept.tokens) // 8) or not _fits(kept.n_bytes):
                return
            state = self._store.read(kept)
            if state is None:
                return
            if len(kept.tokens) > lane.n_ctx or not lane.fill(slot, state, kept.tokens, kept.tiled):
                self._note(f"llama.cpp refused the state in {kept.path}")
        except HelpersError as error:
            self._note(_words(error))

    def keep(self, lane: Lane, slot: int, tokens: list[int]) -> None:
        """Write the state of a prompt that was just computed, if enough of it is new.

        Copying it takes about a hundredth of the time that computing it took; it is written by
        another thread. One that is still at work is not waited for: this prompt is not kept then.
        """
        store = self._store
        if store is None or lane.cold[slot] != len(lane.held[slot]):
            return  # it has answers in it, which were computed in another way than a prompt
        if self._writer is not None and self._writer.is_alive():
            return
        try:
            found = store.find(tokens)
            if len(tokens) - (found[1] if found else 0) < SHORTEST:
                return
            size = lane.context.state_bytes(slot)
            if size * 1.01 > store.limit:
                self._note(
                    f"the state of a prompt takes {size / 2**20:,.0f} MiB, more than cache_dir_mib"
                )
            elif _fits(size):
                instead = found[0] if found and found[1] == len(found[0].tokens) else None
                state = lane.context.state(slot)
                arguments = (store, list(tokens), lane.tiled[slot], state, instead)
                self._writer = threading.Thread(
                    target=self._write, args=arguments, name="llama-prefix", daemon=True
                )
                self._writer.start()
        except (HelpersError, RuntimeError) as error:  # no thread is begun any more: at the end
            self._note(_words(error))

    def _write(
        self, store: PrefixStore, tokens: list[int], tiled: int, state: State, old: Kept | None
    ) -> None:
        try:
            store.write(tokens, tiled, state, old)
        except OSError as error:
            self._note(_words(error))

    def close(self) -> None:
        """Wait until all is written."""
        if self._writer is not None:
            self._writer.join()

    def _note(self, reason: str) -> None:
        text = f"cache_dir: {reason}. The call works without."
        if text not in self._told:
            self._told.add(text)
            self._notes.append(text)


def prefix_key(options: LoadOptions) -> str:
    """What must be the same for a state to be the same: model, adapter, settings, machine, code."""
    settings = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in _NO_MATTER
    }
    settings["sequences"] = sequences_at_load(options)  # llama.cpp refuses another number's states
    machine = [(device.name, device.description) for device in devices()]
    headers = list(checked_header(options.model_path))
    if options.lora_path is not None:
        headers.append(read_header(Path(options.lora_path)))
    return files_key(headers, [FORMAT, settings, machine, sorted(cpu_features())])


def _fits(n_bytes: int) -> bool:
    """Whether the memory has room for a copy of a state."""
    return n_bytes / 2**20 < available_mib() / 2


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'the folder'} cannot be used ({error.strerror or error})"
    return str(error)
