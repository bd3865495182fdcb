"""Running a long command: a live line on a terminal, a line now and then elsewhere, a log."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LIVE_SECONDS = 0.5
_QUIET_SECONDS = 15.0
_TAIL_LINES = 12
_NINJA = re.compile(r"\s*\[(\d+)/(\d+)\]\s+(.*)")
_MAKE = re.compile(r"\s*\[\s*(\d+)%\]\s+(.*)")
_SOURCE = re.compile(r"([\w.+-]+\.(?:cpp|cxx|cc|c|cu|hip|m|mm|S|comp|metal))(?:\.o(?:bj)?)?\b")
_PIP = re.compile(
    r"\s*(Collecting|Downloading|Using cached|Building wheel for|Preparing metadata"
    r"|Installing collected packages)\b:?\s*(\S*)"
)


@dataclass
class Status:
    """How far a command is: `done` of `total` (0: unknown), and what it is at."""

    done: float = 0
    total: float = 0
    what: str = ""


def read_ninja(line: str, status: Status) -> None:
    """Update `status` from a line of ninja (`[3/144] …`), make (`[ 12%] …`) or CMake."""
    match = _NINJA.match(line)
    if match:
        status.done, status.total = float(match[1]), float(match[2])
        rest = match[3]
    else:
        match = _MAKE.match(line)
        if not match:
            if "Configuring CMake" in line:
                status.what = "configuring"
            elif "Making wheel" in line:
                status.what = "packing the wheel"
            return
        status.done, status.total, rest = float(match[1]), 100.0, match[2]
    # The last file named is the one at work; folders (llama.cpp/…) look like files, too.
    sources = _SOURCE.findall(rest)
    status.what = sources[-1] if sources else rest.strip().rsplit("/", 1)[-1][:40]


def read_pip(line: str, status: Status) -> None:
    """Update `status` from a line of pip."""
    match = _PIP.match(line)
    if match:
        name = match[2].rsplit("/", 1)[-1]
        packages = match[1].startswith("Installing")
        status.what = "installing packages" if packages else f"{match[1].lower()} {name}"


def ask(
    *command: str, env: Mapping[str, str] | None = None, seconds: float | None = 20
) -> str | None:
    """Return what a short command prints, or None if it is not there, fails or takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def clock(seconds: float) -> str:
    """Return `m:ss`."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


@dataclass
class Outcome:
    """What became of a command: its status, seconds, last lines, and the whole log's place."""

    status: int
    seconds: float
    tail: tuple[str, ...]
    log: Path


@dataclass
class _Line:
    """The one line that shows progress."""

    title: str
    expected: float | None
    terminal: bool = field(default_factory=lambda: sys.stdout.isatty())
    start: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        about = f" (about {clock(self.expected)} min)" if self.expected else ""
        if not self.terminal:
            say(f"{self.title}{about} ...")

    def text(self, status: Status, now: float) -> str:
        elapsed = now - self.start
        parts = [self.title]
        left = None
        if status.total and status.done:
            parts.append(f"{100 * status.done / status.total:3.0f} %")
            if status.done >= 0.03 * status.total:
                left = elapsed * (status.total - status.done) / status.done
        if left is None and self.expected:
            left = self.expected - elapsed
        parts.append(f"{clock(elapsed)} elapsed")
        if left is not None and left > 0:
            parts.append(f"about {clock(left)} left")
        return "  ".join([*parts, status.what]).rstrip()

    def show(self, status: Status) -> None:
        now = time.monotonic()
        if now - self.last < (_LIVE_SECONDS if self.terminal else _QUIET_SECONDS):
            return
        self.last = now
        text = self.text(status, now)
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write("\r" + text[:width].ljust(width))
            sys.stdout.flush()
        else:
            say("  " + text)

    def end(self, outcome: str) -> None:
        if self.terminal:
            sys.stdout.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
        say(f"{self.title}: {outcome}, {clock(time.monotonic() - self.start)} min")


def _stop(process: subprocess.Popen[str]) -> None:
    """End a command and all that it started: politely, so that ninja can tidy up, then firmly."""
    if process.poll() is not None:
        return
    try:
        if sys.platform == "win32":
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False
            )
        else:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()


def run(
    command: Sequence[str],
    *,
    title: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    read: Callable[[str, Status], None] = read_pip,
    expected: float | None = None,
    hold: int | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run a command, show how far it is, and keep all that it prints in `log`.

    Args:
        command: Program and arguments.
        title: What is being done, for the progress line.
        log: File that gets everything; overwritten.
        env: Whole environment, or None for this process's.
        cwd: Folder to run in.
        read: Turns a line of output into progress.
        expected: Seconds that it usually takes, if known.
        hold: File descriptor (a lock) that the command is to keep open.
        quiet: Show nothing.

    Returns:
        The outcome; a failing command raises nothing.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    line, status = _Line(title, expected), Status()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    if not quiet:
        line.begin()
    posix = sys.platform != "win32"
    with log.open("w", encoding="utf-8") as record:
        record.write("$ " + " ".join(command) + "\n")
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Its own session: Ctrl-C then reaches only this process, which ends the whole group.
            start_new_session=posix,
            pass_fds=(hold,) if posix and hold is not None else (),
        )

        def drain() -> None:
            assert process.stdout is not None
            with process.stdout as output:
                for text in output:
                    if record.closed:  # a grandchild went on after the command had ended
                        return
                    record.write(text)
                    if text.strip():
                        tail.append(text.rstrip())
                    read(text, status)

        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        try:
            while process.poll() is None or reader.is_alive():
                if not quiet:
                    line.show(status)
                reader.join(0.1)
                if process.poll() is not None:
                    reader.join(5)  # a grandchild may keep the pipe open
                    break
        except BaseException:
            _stop(process)
            if not quiet:
                line.end("interrupted")
            raise
        code = process.wait()
        if not quiet:
            line.end("done" if code == 0 else "failed")
    return Outcome(code, time.monotonic() - line.start, tuple(tail), log)
