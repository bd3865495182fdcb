"""Child processes of this package: started, asked, replaced and ended in one way.

What may end its process (native code, a template that came with a download) runs in a child, and
the kernel lives on. `Child` is the owner's side, `Parent` that of the child program. Ctrl-C does
not reach a child, it ends by itself when its owner's process has gone (a fork of that, living on,
neither uses nor keeps it). Its death is an `EngineCrashed` that names the cause.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from helpers.errors import EngineCrashed, HelpersError

_BEGIN = b"\0llama-notebooks child\0"
"""What a child writes first: before it, start-up code of other packages may have printed."""

_START_SECONDS = 120.0
"""Importing takes a second; on a cold network disk, beside a virus scanner, much more."""
_WORDS = 40
_WATCH_SECONDS = 1.0


class Child:
    """A child process that is started when needed, and a new one when that has died.

    Args:
        program: A module of the package, or a file: a file spares the import of its room.
        arguments: Its command line.
        role: What the process did, for messages: "held the model".
        remedy: What to do when it has died; None for the advice to somebody who runs a model.
        lasting: A request of which an older process dies is put to a new one: what it died of may
            be over.
        env: Further environment variables.

    Attributes:
        servers: `host:port` of the RPC servers that it needs, to be named when it dies of one.
    """

    def __init__(
        self,
        program: str | Path,
        *arguments: str,
        role: str,
        remedy: str | None = None,
        lasting: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        # -P: neither the user's folder nor the program's own is a place to import from.
        how = [str(program)] if isinstance(program, Path) else ["-m", program]
        self._command = [sys.executable, "-P", *how, *arguments]
        self._role, self._remedy, self._lasting = role, remedy, lasting
        self._more = env or {}
        self.servers: Sequence[str] = ()
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._words: deque[str] = deque(maxlen=_WORDS)
        _all.add(self)

    @property
    def pid(self) -> int | None:
        """Process id of the last one; None where none was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> subprocess.Popen[bytes]:
        """Return the running process, ready to be asked; a new one where there is none.

        Raises:
            EngineCrashed: It ended before it was ready.
            TimeoutError: It was not ready in two minutes.
        """
        with self._lock:
            process = self._process
            if process is not None and process.poll() is None:
                return process
            self.close()
            self._words = deque(maxlen=_WORDS)
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(self._more),
                # Ctrl-C in a terminal goes to the whole group, and only the owner decides what it
                # means for the child.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            self._finalizer = weakref.finalize(self, _end, process, os.getpid())
            self._process = process
            self._listener = threading.Thread(
                target=_listen, args=(process.stderr, self._words), daemon=True
            )
            self._listener.start()
            assert process.stdout is not None
            try:
                with self._in_time(process, _START_SECONDS, "start"):
                    seen = b""
                    while not seen.endswith(_BEGIN) and (byte := process.stdout.read(1)):
                        seen = seen[-len(_BEGIN) :] + byte
                    if not seen.endswith(_BEGIN):
                        raise self.death()
            except BaseException:  # after an interrupt, nobody knows how much has been read
                self.close()
                raise
            return process

    def ask(
        self,
        request: Any,
        seconds: float | None = None,
        progress: Callable[..., object] | None = None,
    ) -> Any:
        """Ask the program at the other end, which runs `Parent.serve`; one request at a time.

        Args:
            request: What JSON can carry.
            seconds: Longest time to wait once the child is ready; None for no limit.
            progress: Is called with what the program passes to `Parent.progress`.

        Returns:
            The answer.

        Raises:
            HelpersError: The program raised one; of the same class, or of the child of
            `HelpersError` that it descends from.
            EngineCrashed: The child died; the next request starts another.
            TimeoutError: It took too long, and was ended.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            known = self._process
            try:
                try:
                    reply = self._exchange(line, seconds, progress)
                except EngineCrashed:
                    if not self._lasting or known is None or known is not self._process:
                        raise
                    reply = self._exchange(line, seconds, progress)
            except BaseException:
                # After an interrupt, the next request must not read this one's answer.
                self.close()
                raise
        if "error" in reply:
            kinds = {kind.__name__: kind for kind in HelpersError.__subclasses__()}
            kind = next((kinds[name] for name in reply["kinds"] if name in kinds), HelpersError)
            raise kind(reply["error"])
        return reply["answer"]

    def _exchange(
        self, line: bytes, seconds: float | None, progress: Callable[..., object] | None
    ) -> dict[str, Any]:
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        with self._in_time(process, seconds, "answer"):
            with contextlib.suppress(OSError):  # it has died: reading tells
                process.stdin.write(line)
                process.stdin.flush()
            while (raw := process.stdout.readline()).endswith(b"\n"):
                reply: dict[str, Any] = json.loads(raw)
                if "progress" not in reply:
                    return reply
                if progress is not None:
                    progress(*reply["progress"])
            raise self.death()

    @contextlib.contextmanager
    def _in_time(
        self, process: subprocess.Popen[bytes], seconds: float | None, what: str
    ) -> Iterator[None]:
        """End the process when the time is up, which ends every read from it."""
        if seconds is None:
            yield
            return
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        guard = threading.Timer(seconds, stop)
        guard.daemon = True
        guard.start()
        try:
            yield
        except EngineCrashed:
            if not late.is_set():
                raise
            raise TimeoutError(
                f"The process that {self._role} did not {what} within {seconds:g} s."
            ) from None
        finally:
            guard.cancel()

    def death(self) -> EngineCrashed:
        """Why the process ended; one that only closed its output is ended."""
        process = self._process
        assert process is not None
        try:
            status = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._listener.join(timeout=1)
        return crashed(status, tuple(self._words), self._role, self._remedy, self.servers)

    def kill(self) -> None:
        """End the process now, whatever it and its owner's other threads are doing."""
        if self._process is not None:
            self._process.kill()

    def close(self, grace: float = 0) -> None:
        """End the process and wait for that; the next request starts another.

        Args:
            grace: Seconds in which it may end by itself, because its input was closed.
        """
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace)
            self._finalizer()

    def _leave(self) -> None:
        """After a fork, forget the process: it, its pipes and a held lock are the parent's."""
        self._lock = threading.RLock()
        process, self._process = self._process, None
        if process is None:
            return
        process.returncode = 0  # not for this process to wait for
        for stream in (process.stdin, process.stdout, process.stderr):
            # Past the buffer, which may hold half a line that its owner is about to write.
            stream.raw.close()  # type: ignore[union-attr]


_all: weakref.WeakSet[Child] = weakref.WeakSet()


def _leave_all() -> None:
    for child in list(_all):
        child._leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


def _environment(more: dict[str, str]) -> dict[str, str]:
    """The environment in which a child finds this very `helpers`."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1", "PYTHONUTF8": "1", **more}


def _listen(stream: IO[bytes], words: deque[str]) -> None:
    with stream, contextlib.suppress(ValueError):  # closed by a fork's `_leave`
        for raw in stream:
            words.extend(filter(None, [raw.decode("utf-8", "replace").rstrip()]))


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # in a fork, which has finalizers too
        return
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError, ValueError):
            stream.close()  # type: ignore[union-attr]


def crashed(
    status: int,
    last_words: Sequence[str],
    role: str,
    remedy: str | None = None,
    servers: Sequence[str] = (),
) -> EngineCrashed:
    """The death of a child, with its likely cause in words.

    Args:
        status: Exit status; negative is the number of the signal.
        last_words: The last lines that it logged.
        role: What the process did: "held the model".
        remedy: What to do; None for the advice to somebody who runs a model.
        servers: The RPC servers that it needed.
    """
    cause, advice = _cause(status, last_words, servers)
    name = f"exit status {status}"
    if status < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
    if remedy is None:
        remedy = "The kernel is unharmed, and the next call starts a new process."
        cause += f". {advice}" if advice else ""
    log = "\n".join(f"  {line}" for line in last_words[-8:])
    return EngineCrashed(
        f"The process that {role} ended ({name}): {cause}. {remedy}"
        + (f"\nIts last words:\n{log}" if log else ""),
        native_log=tuple(last_words),
        exit_status=status,
    )


def _cause(status: int, last_words: Sequence[str], servers: Sequence[str]) -> tuple[str, str]:
    """The likely cause of a death, and what somebody who runs a model can do."""
    if status == -getattr(signal, "SIGKILL", 9):
        return (
            "it was killed from outside, most often by the system for lack of memory",
            "Try a smaller n_ctx or a smaller model",
        )
    if any("out of memory" in line.lower() for line in last_words):
        return "a device ran out of memory", "Try fewer n_gpu_layers or a smaller n_ctx"
    if any(sign in line for sign in _RPC_LOST for line in last_words):
        named = [one for one in servers if any(one in line for line in last_words)] or servers
        where = f" at {' or at '.join(named)}" if named else ""
        return (
            f"the RPC server{where} was lost: it ended, ran out of memory, or cannot be reached",
            "Try fewer n_gpu_layers, or start it again",
        )
    if status == -getattr(signal, "SIGABRT", 6):
        return (
            "an assertion in native code failed, or a device gave up",
            "Try fewer n_gpu_layers, a smaller n_batch or n_ctx",
        )
    if status in (-getattr(signal, "SIGSEGV", 11), _ACCESS_VIOLATION):
        return "native code crashed", "Check the model file with helpers.inspect_model"
    return "its log may say why", ""


_RPC_LOST = ("Remote RPC server", "RPC server at", "RPC handshake failed", "ggml-rpc.cpp")
"""What the client of an RPC server says last (`helpers.native.remote`, ggml-rpc.cpp)."""

_ACCESS_VIOLATION = 0xC0000005
"""What Windows calls a segmentation fault."""


def _end_with(owner: int) -> None:
    """End this process soon after its owner.

    The end of the pipe does that at once, unless a fork holds it open: one that did not pass
    through Python (`_leave_all` did not run), or came while the child was being started.
    """
    while os.getppid() == owner:
        time.sleep(_WATCH_SECONDS)
    os._exit(0)


class Parent:
    """The child program's side: requests come in, answers go out, everything else is log.

    Attributes:
        requests: What the owner writes.
        replies: What the owner reads.
    """

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.requests: IO[bytes] = os.fdopen(os.dup(0), "rb")
        self.replies: IO[bytes] = os.fdopen(os.dup(1), "wb")
        if sys.platform != "win32":
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        # On Windows, a library that looks at its input while it loads would wait for the next
        # request; whatever prints, native code too, must not end up between two answers.
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (the null device is no Path)
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.replies.write(_BEGIN)
        self.replies.flush()

    def serve(self, answer: Callable[[Any], Any]) -> NoReturn:
        """Answer each request with what `answer` makes of it, until the owner has gone.

        A `HelpersError` is an answer; any other exception ends the process, and its traceback
        becomes its last words.
        """
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._receive, args=(lines,), daemon=True).start()
        while True:
            try:
                self._send({"answer": answer(json.loads(lines.get()))})
            except HelpersError as error:
                kinds = [kind.__name__ for kind in type(error).__mro__]
                self._send({"error": str(error), "kinds": kinds})
            except BaseException as error:
                if not isinstance(error, SystemExit):  # which has said why
                    traceback.print_exc()
                os._exit(1)

    def progress(self, *values: Any) -> None:
        """Let the owner know how far the work is."""
        self._send({"progress": values})

    def _send(self, message: dict[str, Any]) -> None:
        self.replies.write(json.dumps(message).encode() + b"\n")
        self.replies.flush()

    def _receive(self, lines: queue.SimpleQueue[bytes]) -> None:
        for line in self.requests:
            lines.put(line)
        # Not sys.exit: the main thread may be at work, and nothing here needs tidying up.
        os._exit(0)
