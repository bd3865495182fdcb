"""An index of documents: ends, damage and threads, in memory and on disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from helpers import HelpersError, LlamaCppEmbeddings
from helpers.documents.index import DocumentIndex
from tests.documents.support import Counting, index, write
from tests.hostile.base import MODEL, Exits, Gives, Raises, Says, Uses, error, in_threads
from tests.support import child_of

use = Uses("index")

PLACE = Path("index")


def notes(files: int = 8, lines: int = 12) -> Path:
    """A folder of short texts."""
    return write(
        Path("notes"),
        {
            f"{file}.md": "\n".join(f"Line {line} of {file}." for line in range(lines))
            for file in range(files)
        },
    )


def whole(opened: DocumentIndex, passages: int = 96) -> bool:
    """Whether all is there, and found in each way."""
    found = (opened.search("Line of", 1000, by=by) for by in ("vectors", "words"))
    return {len(opened), *map(len, found), len(opened.vectors())} == {passages}


def real(**fields: Any) -> LlamaCppEmbeddings:
    small = {"model_path": MODEL, "n_ctx": 256, "n_threads": 1, "show_progress": False}
    return LlamaCppEmbeddings(**{**small, **fields})


@use("kill -9 of the process that makes vectors for an index", Says("EngineCrashed", "True"),
     posix=True)  # fmt: skip
def kill_9_of_the_process_that_makes_vectors() -> object:
    folder, model = notes(4, 6), real(isolate=True)
    with index(PLACE, embeddings=model) as ours:
        threading.Timer(0.3, os.kill, (child_of(model._engine), signal.SIGKILL)).start()
        said = error(lambda: ours.sync(folder))
        ours.sync(folder)
        return f"{said} {whole(ours, 24)}"


@use("Ctrl-C at any moment of indexing", Gives((True, True)), posix=True)
def ctrl_c_at_any_moment() -> object:
    folder, draw, stopped = notes(), random.Random(3), 0
    for _ in range(12):
        timer = threading.Timer(draw.uniform(0.005, 0.1), os.kill, (os.getpid(), signal.SIGINT))
        with index(PLACE, embeddings=Counting(pause=0.001)) as ours:
            try:
                timer.start()
                ours.sync(folder)
                time.sleep(1)
            except KeyboardInterrupt:
                stopped += 1
            ours.search("Line of", 1000)  # what is in memory is in order
            write(folder, {f"{draw.randrange(8)}.md": "\n".join(map(str, range(9)))})
    notes()
    with index(PLACE) as ours:
        ours.sync(folder)
        return stopped > 6, whole(ours)


@use("closing while threads search and index", Gives(True))
def closing_while_threads_search_and_index() -> object:
    folder = notes()
    ours = index(PLACE, embeddings=Counting(pause=0.003))

    def work(number: int) -> object:
        if number == 0:
            time.sleep(0.3)
            return ours.close()
        for _ in range(10_000):
            ours.sync(folder) if number == 1 else ours.search("Line 3", 50)
            ours.remove("0.md") if number == 1 else ours.vectors()
        return None

    ends = in_threads(5, work)
    with index(PLACE) as again:
        again.sync(folder)
        return (
            ends[0] is None and all("has been closed" in one for one in ends[1:]) and whole(again)
        )


@use("an index made by eight threads at once", Gives((1, True)))
def an_index_made_by_eight_threads_at_once() -> object:
    folder = notes()
    made = in_threads(8, lambda _: index(PLACE))
    kept = [one for one in made if isinstance(one, DocumentIndex) and not one._closed]
    with index(PLACE) as ours:
        ours.sync(folder)
        return len(kept), whole(ours)


@use("an index in a fork", Gives((0, True)), posix=True)
def an_index_in_a_fork() -> object:
    ours = index(PLACE)
    ours.sync(notes())
    if not (child := os.fork()):
        said = str(error(lambda: ours.search("x"))) + str(error(lambda: index(PLACE)))
        ours.close()
        os._exit(0 if "forked" in said and "another process" in said else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, whole(ours)


@use("an end of the interpreter while a thread indexes", Exits(0, "indexing"))
def an_end_of_the_interpreter_while_a_thread_indexes() -> object:
    ours = index(PLACE, embeddings=Counting(pause=0.01))
    threading.Thread(target=lambda: error(lambda: ours.sync(notes())), daemon=True).start()
    while not ours._store.get_by_ids(ours._passages.unused()[:1]):
        time.sleep(0.01)
    print("indexing", flush=True)
    sys.exit(0)


@use("bytes that change in an index", Gives((set(), True)))
def bytes_that_change_in_an_index() -> object:
    with index(PLACE) as ours:
        ours.sync(notes())
    draw, odd, refused = random.Random(7), set(), 0
    for number in range(60):
        copy = Path(f"copy{number}")
        shutil.copytree(PLACE, copy)
        files = [path for path in copy.rglob("*") if path.is_file() and path.name != ".lock"]
        file = draw.choice(sorted(files))
        raw = bytearray(file.read_bytes())
        if file.suffix == ".sqlite" and "vectors" in file.parts:
            raw = raw[: draw.randrange(len(raw))]  # no pickles that were changed
        else:
            for _ in range(40):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
        file.write_bytes(raw)
        try:
            with index(copy) as ours:
                whole(ours)
        except Exception as caught:
            refused += 1
            if not isinstance(caught, HelpersError):
                odd.add(f"{file.name} {caught!r:.300}")
        finally:
            shutil.rmtree(copy)
    return odd, refused > 20


@use("a disk that is full", Says("HelpersError", "True"), posix=True)
def a_disk_that_is_full() -> object:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder = notes()
    with index(PLACE) as ours:
        ours.sync(folder)
        write(folder, {"large.md": "\n".join(f"{n} {'word ' * 60}" for n in range(2000))})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
        said = error(lambda: ours.sync(folder))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        before = whole(ours)
        (folder / "large.md").unlink()
        ours.sync(folder)
        return f"{said} {before} {whole(ours)}"


@use("a lock that somebody else holds for an hour", Raises("HelpersError", "in use by another"))
def a_lock_that_somebody_else_holds() -> object:
    index(PLACE).close()
    other = sqlite3.connect(PLACE / "passages.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    return index(PLACE)


@use("questions and documents beyond measure", Says("ContextOverflowError", "ValueError", "True"))
def questions_and_documents_beyond_measure() -> object:
    with index(embeddings=real()) as ours:
        ours.add([Document("Line 1.", metadata={"source": "one"})])
        long = "river " * 40_000
        loop: dict[str, Any] = {"source": "loop"}
        loop["self"] = loop
        said = [
            error(lambda: ours.search(long)),
            len(ours.search("Line " + long, by="words")),
            error(lambda: ours.add([Document(long)])),
            error(lambda: ours.add([Document("text", metadata=loop)])),
            error(lambda: ours.search("\ud800", by="vectors")),
        ]
        return f"{said!r} {len(ours) == 1}"


@use("files that come and go while they are read", Gives(True))
def files_that_come_and_go_while_they_are_read() -> object:
    folder, done = notes(), threading.Event()

    def disturb() -> None:
        draw = random.Random(1)
        while not done.is_set():
            path = folder / f"{draw.randrange(8)}.md"
            path.unlink(missing_ok=True)
            path.write_bytes(draw.choice([b"\xff", b"Line 1 of a.", b"a\0"]))

    thread = threading.Thread(target=disturb)
    thread.start()
    with index(PLACE) as ours:
        for _ in range(20):
            ours.sync(folder)
        done.set()
        thread.join()
        ours.sync(notes())
        return whole(ours)
