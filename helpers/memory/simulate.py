"""Ask llama.cpp itself: a load that lays all buffers out and allocates none, in a child process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.children import apart, child_command, child_environment
from helpers.load_options import LoadOptions
from helpers.native import Device

_SECONDS = 60.0
"""A simulated load takes a tenth of a second; a big vocabulary, on a slow disk, some more."""
_KEPT = 256


@dataclass(frozen=True)
class Simulation:
    """What a simulated load says.

    Attributes:
        compute: MiB of compute and output buffers by device.
        caches: `(MiB, layers)` of each cache.
        layers: Device of each layer; the output layer is the last.
        flash_attn: Whether flash attention would be used.
    """

    compute: Mapping[str, float]
    caches: tuple[tuple[float, tuple[int, ...]], ...]
    layers: tuple[str, ...]
    flash_attn: bool


def simulate_load(
    options: LoadOptions, devices: Sequence[Device] = (), *, n_seq: int = 1
) -> Simulation | None:
    """Simulate a load; about 0.1 s, and nothing when the same was asked before.

    Args:
        options: How to load, with numbers for `n_ctx` and `n_gpu_layers`; its `devices` do not
            count.
        devices: The devices that take layers, all of which must exist.
        n_seq: Sequences side by side.

    Returns:
        What the load said; None where it failed or ended its process.
    """
    state = Path(options.model_path).stat()
    request = {
        "options": replace(options, devices=None).placement(),
        "devices": [(device.name, device.endpoint) for device in devices],
        "n_seq": n_seq,
    }
    return _ask(json.dumps(request, sort_keys=True), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=_KEPT)
def _ask(line: str, _changed: int, _size: int) -> Simulation | None:
    answer = _child.ask(line)
    if answer is None or "error" in answer:
        return None
    return Simulation(
        compute=answer["compute"],
        caches=tuple((size, tuple(layers)) for size, layers in answer["caches"]),
        layers=tuple(answer["layers"]),
        flash_attn=answer["flash_attn"],
    )


class _Child:
    """Owns the child process: one request at a time, a new child after each misfortune."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, line: str) -> dict[str, Any] | None:
        """Return the child's answer; None if it ended or took too long."""
        with self._lock:
            used = self._process
            try:
                answer = self._exchange(line.encode() + b"\n")
                if not answer.endswith(b"\n") and used is self._process:
                    # An older child may have died of a device that has gone since: ask another.
                    self._close()
                    answer = self._exchange(line.encode() + b"\n")
            except BaseException:  # between question and answer: the next must not read this one's
                self._close()
                raise
            if not answer.endswith(b"\n"):
                self._close()
                return None
            result: dict[str, Any] = json.loads(answer)
            return result

    def _exchange(self, line: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        guard = threading.Timer(_SECONDS, process.kill)
        guard.daemon = True
        guard.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line)
                process.stdin.flush()
            return process.stdout.readline()
        finally:
            guard.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        process = self._process
        mine = self._owner == os.getpid()  # after a fork the pipes are shared with the parent
        if process is not None and process.poll() is None and mine:
            return process
        if mine:
            self._close()
        self._process = subprocess.Popen(
            child_command("helpers.memory.simulate_child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            **apart(),
        )
        self._owner = os.getpid()
        return self._process

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError), process:  # closes the pipes and waits
                pass

    def close(self) -> None:
        """End the child; the next request starts another."""
        with self._lock:
            if self._owner == os.getpid():
                self._close()


_child = _Child()
atexit.register(_child.close)
