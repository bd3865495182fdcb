"""The child process of `helpers.isolation.core`: one model, driven through stdin and stdout.

It runs as `python -m helpers.isolation.child` and ends when its input closes.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from dataclasses import replace
from typing import IO, Any

from helpers.children import Parent
from helpers.errors import HelpersError
from helpers.isolation.wire import frame, read_frame


def main() -> None:
    """Serve until the parent closes the pipe."""
    parent = Parent()
    server = _Server(parent.replies)
    status = 0
    try:
        while True:
            server.take(*read_frame(parent.requests))
    except EOFError:
        server.close()
    except BaseException:  # a message that cannot be read: the parent shows this text
        traceback.print_exc()
        status = 1
    finally:
        sys.stderr.flush()
        # Not sys.exit: a decode may still be running, and nothing here needs tidying up.
        os._exit(status)


class _Server:
    """Carries out the parent's messages."""

    def __init__(self, replies: IO[bytes]) -> None:
        self._replies = replies
        self._lock = threading.Lock()
        self._core: Any = None
        self._jobs: dict[int, Any] = {}
        self._grammars: dict[str, Any] = {}

    def take(self, verb: str, to: Any, content: Any) -> None:
        """Carry out one message, or answer that it could not be read."""
        if isinstance(content, HelpersError):
            for number in to if isinstance(to, list) else [to]:
                self._reply("event" if verb == "submit" else "reply", number, content)
        else:
            getattr(self, f"do_{verb}")(to, content)

    def do_load(self, number: int, options: Any) -> None:
        """Load the model and report what it took."""
        from helpers.engine.core import LocalCore
        from helpers.native import practice_split, reach, read_buffers, renamed

        try:
            aliases: dict[str, str] = {}
            if options.devices is not None and options.n_gpu_layers != 0:
                names, aliases = reach(options.devices)
                options = replace(
                    options,
                    devices=tuple((name, None) for name in names),
                    tensor_split=options.tensor_split or practice_split(options.devices),
                )
            self._core = LocalCore(options)
            log = renamed(self._core.native_log, aliases)
            report = replace(self._core.load_report, by_device=read_buffers(log))
            self._reply("reply", number, (report, log))
        except Exception as error:
            self._reply("reply", number, error)

    def do_submit(
        self, numbers: list[int], content: tuple[list[Any], dict[str, Any], list[str]]
    ) -> None:
        """Queue requests; each event goes back with the request's number.

        Args:
            numbers: Of the requests.
            content: The requests, without their grammars and with the grammars' keys; the grammars
                that are new here, by key; keys that will not be named again.
        """
        requests, grammars, forgotten = content
        self._grammars |= grammars
        from helpers.engine.options import Chunk
        from helpers.engine.sequence import Job

        def sink_for(number: int) -> Any:
            def sink(event: Any) -> None:
                if not isinstance(event, Chunk):
                    self._jobs.pop(number, None)
                self._reply("event", number, event)

            return sink

        jobs = []
        for number, (request, key) in zip(numbers, requests, strict=True):
            if key is not None and key not in self._grammars:
                error = HelpersError("The grammar did not reach the process that holds the model.")
                self._reply("event", number, error)
                continue
            if key is not None:
                request = replace(request, grammar=self._grammars[key])
            self._jobs[number] = job = Job(request, sink_for(number))
            jobs.append(job)
        for key in forgotten:
            self._grammars.pop(key, None)
        try:
            self._core.submit(jobs)
        except HelpersError as error:
            for job in jobs:
                job.tell(error)

    def do_cancel(self, number: int, _content: None) -> None:
        """End a request early."""
        job = self._jobs.get(number)
        if job is not None:
            self._core.cancel(job)

    def do_tokenize(self, number: int, text: str) -> None:
        """Count tokens without a generation."""
        try:
            self._reply("reply", number, self._core.tokenize(text))
        except Exception as error:
            self._reply("reply", number, error)

    def do_embed(self, number: int, texts: list[list[int]]) -> None:
        """Compute the vectors of a batch of texts, and send them as shapes and bytes."""
        try:
            vectors = self._core.embed(texts)
            self._reply("reply", number, [(one.shape, one.tobytes()) for one in vectors])
        except Exception as error:
            self._reply("reply", number, error)

    def close(self) -> None:
        """Free the model where that is quick; the system does the rest."""
        if self._core is not None:
            closer = threading.Thread(target=self._core.close, daemon=True)
            closer.start()
            closer.join(timeout=3)

    def _reply(self, verb: str, number: int, content: Any) -> None:
        try:
            raw = frame(verb, number, content)
        except Exception:
            raw = frame(verb, number, HelpersError(f"{type(content).__name__}: {content}"))
        with self._lock:
            try:
                self._replies.write(raw)
                self._replies.flush()
            except OSError:
                os._exit(0)  # the parent is gone


if __name__ == "__main__":
    main()
