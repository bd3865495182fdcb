"""A server beside this kernel: started from Python, and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections import deque
from types import TracebackType
from typing import IO, Any, Self

from helpers.errors import ServerError
from helpers.install.paths import REPOSITORY

_END_S = 45.0
"""How long a server may take to end: its running answers' grace, and a little more."""


class serve:
    """Start `python -m helpers serve` in a process of its own, and wait until it can be asked.

    It ends with the `with` block, with `close()`, or with this process, whatever ends that.

    Args:
        model: Any name that `find_model` knows; None for the default model.
        port: Port; 0 for a free one.
        **options: Further options of the command: `parallel=4` is `--parallel 4`.

    Attributes:
        url: Address of the server, for `ChatLlamaCpp(server=…)`.
        model: The name that it serves the model under.

    Raises:
        ServerError: It could not be started; the message has its last words.

    Example:
        >>> from helpers.serve import serve
        >>> with serve(parallel=2, n_ctx=512) as server:  # doctest: +SKIP
        ...     print(server.url)
        http://127.0.0.1:40123
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, *, port: int = 0, **options: Any
    ) -> None:
        command = [sys.executable, "-P", "-m", "helpers.serve.command", "--ready"]
        command += ["--port", str(port)]
        if model is not None:
            command += ["--model", os.fspath(model)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        root = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end is the server's
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root, "PYTHONUTF8": "1"},
            start_new_session=True,  # Ctrl-C in the notebook is not for the server
        )
        self._words: deque[str] = deque(maxlen=20)
        assert self._process.stdout is not None and self._process.stderr is not None
        listener = threading.Thread(
            target=_listen, args=(self._process.stderr, self._words), daemon=True
        )
        listener.start()
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        try:
            line = self._process.stdout.readline()
            if not line:
                listener.join(timeout=5)
                raise ServerError(
                    "The server could not be started. It said:\n" + "\n".join(self._words)
                )
        except BaseException:
            self.close()
            raise
        ready = json.loads(line)
        self.url: str = ready["url"]
        self.model: str = ready["model"]

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def log(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._words)

    def close(self) -> None:
        """End it; running answers are finished."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self._process.poll() is None else "ended"
        return f"<server of {self.model} on {self.url}, {state}>"


def _listen(stream: IO[bytes], words: deque[str]) -> None:
    with stream, contextlib.suppress(ValueError):
        for raw in stream:
            words.append(raw.decode("utf-8", "replace").rstrip())


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork, whose server it is not
        return
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
    process.stdout.close()
