"""The passages of an index: what they say, where they stand, which words are in them.

One SQLite file. A source's passages become visible in one commit, and SQLite's own FTS5 ranks them
by words with BM25. Vectors are kept elsewhere, each under the number that its text gives.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from helpers.errors import HelpersError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS sources (source TEXT PRIMARY KEY, folder TEXT, digest TEXT);
CREATE TABLE IF NOT EXISTS passages (
    number INTEGER PRIMARY KEY, source TEXT, position INTEGER, vector TEXT, text TEXT, metadata TEXT
);
CREATE INDEX IF NOT EXISTS by_source ON passages (source, position);
CREATE INDEX IF NOT EXISTS by_vector ON passages (vector);
CREATE TABLE IF NOT EXISTS vectors (vector TEXT PRIMARY KEY);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    text, content='passages', content_rowid='number',
    tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER IF NOT EXISTS passage_comes AFTER INSERT ON passages BEGIN
    INSERT INTO words (rowid, text) VALUES (new.number, new.text);
END;
CREATE TRIGGER IF NOT EXISTS passage_goes AFTER DELETE ON passages BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.number, old.text);
END;
"""
_COLUMNS = "passages.source, passages.position, passages.vector, passages.text, passages.metadata"
AGAIN = "rebuild=True empties the index, and sync fills it again."
"""What to do about a damaged index."""

_MOST_WORDS = 500
"""Words of a question that are looked for: each is one more list to merge."""


@dataclass(frozen=True)
class Source:
    """A text with a name, cut into passages.

    Attributes:
        name: Its name: a path relative to `folder`, or what somebody called it.
        folder: The folder that it was read from, or None.
        digest: A hash of its content.
        passages: The passages in their order.
    """

    name: str
    folder: str | None
    digest: str
    passages: tuple[Document, ...] = ()


class BusyError(HelpersError):
    """Another process has the file open."""


class DamagedError(HelpersError):
    """The file is none of SQLite's, or was damaged."""


def vector_id(text: str) -> str:
    """The number under which a text's vector is kept: the same for the same text.

    >>> vector_id("river") == vector_id("river") != vector_id("sea")
    True
    """
    return str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16]))


class Passages:
    """The file. Safe to use from several threads; for one process at a time.

    Args:
        path: Where it is, or is to be; None: in memory.

    Raises:
        BusyError: Another process has it open.
        DamagedError: It is damaged.
        HelpersError: It cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._name = str(path or "memory")
        self._lock = threading.RLock()
        with self._errors():
            self._db = sqlite3.connect(path or ":memory:", timeout=0, check_same_thread=False)
        try:
            # Held until it is closed, or its process ends in whatever way.
            with self._errors():
                self._db.executescript("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;")
                (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise self._damaged(found)
                self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file; it can be called twice."""
        with self._lock:
            self._db.close()

    @property
    def settings(self) -> dict[str, Any]:
        """What was kept by `keep_settings`; empty in a new file."""
        with self._use() as db:
            rows = db.execute("SELECT name, value FROM settings")
            return {name: json.loads(value) for name, value in rows}

    def keep_settings(self, settings: dict[str, Any]) -> None:
        """Keep what the index was made with."""
        with self._use() as db:
            db.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in settings.items()],
            )

    def clear(self) -> None:
        """Forget everything, all at one moment."""
        with self._use() as db:
            for table in ("settings", "sources", "passages", "vectors"):
                db.execute(f"DELETE FROM {table}")

    def sources(self) -> dict[str, Source]:
        """All sources by name, sorted, without their passages."""
        with self._use() as db:
            rows = db.execute("SELECT source, folder, digest FROM sources ORDER BY source")
            return {row[0]: Source(*row) for row in rows}

    def put(self, sources: Iterable[Source]) -> None:
        """Let sources take the place of those with their names, all at one moment."""
        with self._use() as db:
            for source in sources:
                db.execute("DELETE FROM passages WHERE source = ?", (source.name,))
                db.execute(
                    "INSERT OR REPLACE INTO sources VALUES (?, ?, ?)",
                    (source.name, source.folder, source.digest),
                )
                db.executemany(
                    "INSERT INTO passages (source, position, vector, text, metadata)"
                    " VALUES (?, ?, ?, ?, ?)",
                    [
                        (
                            source.name,
                            position,
                            vector_id(passage.page_content),
                            passage.page_content,
                            json.dumps(passage.metadata, default=str),
                        )
                        for position, passage in enumerate(source.passages)
                    ],
                )

    def move(self, names: Iterable[str], folder: str | None) -> None:
        """Note that sources are in another folder now."""
        with self._use() as db:
            db.executemany(
                "UPDATE sources SET folder = ? WHERE source = ?", [(folder, name) for name in names]
            )

    def drop(self, names: Iterable[str]) -> None:
        """Remove sources and their passages, all at one moment."""
        rows = [(name,) for name in names]
        with self._use() as db:
            db.executemany("DELETE FROM passages WHERE source = ?", rows)
            db.executemany("DELETE FROM sources WHERE source = ?", rows)

    def expect(self, vectors: Iterable[str]) -> None:
        """Note that vectors are about to be kept, so that `unused` knows them whatever happens."""
        with self._use() as db:
            db.executemany("INSERT OR IGNORE INTO vectors VALUES (?)", [(one,) for one in vectors])

    def unused(self) -> list[str]:
        """Vectors that were expected, and that no passage has."""
        with self._use() as db:
            rows = db.execute(
                "SELECT vector FROM vectors WHERE vector NOT IN (SELECT vector FROM passages)"
            )
            return [vector for (vector,) in rows]

    def vectors(self) -> set[str]:
        """Vectors that passages have."""
        with self._use() as db:
            return {vector for (vector,) in db.execute("SELECT DISTINCT vector FROM passages")}

    def forget(self, vectors: Iterable[str]) -> None:
        """Note that vectors are kept no longer."""
        with self._use() as db:
            db.executemany("DELETE FROM vectors WHERE vector = ?", [(one,) for one in vectors])

    def __len__(self) -> int:
        with self._use() as db:
            return int(db.execute("SELECT count(*) FROM passages").fetchone()[0])

    def all(self) -> list[Document]:
        """All passages, by source and by place in it."""
        with self._use() as db:
            return [
                _document(*row)
                for row in db.execute(f"SELECT {_COLUMNS} FROM passages ORDER BY source, position")
            ]

    def with_vectors(self, vectors: Sequence[str]) -> dict[str, list[Document]]:
        """The passages that have some vectors: one has several where several say the same."""
        found: dict[str, list[Document]] = {}
        with self._use() as db:
            for vector in vectors:
                rows = db.execute(
                    f"SELECT {_COLUMNS} FROM passages WHERE vector = ? ORDER BY source, position",
                    (vector,),
                )
                found[vector] = [_document(*row) for row in rows]
        return found

    def with_words(self, question: str, k: int) -> list[tuple[Document, float]]:
        """The passages that have words of a question, by BM25; higher is better.

        Args:
            question: Any text; the first 500 different words of it count.
            k: Most passages.
        """
        # In quotes nothing is syntax; what is no word to FTS5 finds nothing.
        words = dict.fromkeys(re.findall(r"\w+", question.casefold()))
        match = " OR ".join(f'"{word}"' for word in list(words)[:_MOST_WORDS])
        if not match:
            return []
        with self._use() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS}, bm25(words) FROM words"
                " JOIN passages ON passages.number = words.rowid WHERE words MATCH ?"
                " ORDER BY bm25(words), passages.source, passages.position LIMIT ?",
                (match, k),
            )
            return [(_document(*row), -score) for *row, score in rows]

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """The file for one thread, in one transaction."""
        with self._lock, self._errors(), self._db:
            yield self._db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_BUSY"):
                raise BusyError(f"{self._name} is in use by another process.") from error
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise self._damaged(error) from error
            raise HelpersError(f"{self._name} cannot be read or written: {error}.") from error
        except UnicodeEncodeError:
            raise
        except (TypeError, ValueError) as error:  # what came out is not what went in
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> DamagedError:
        return DamagedError(f"{self._name} is damaged ({why}). {AGAIN}")


def _document(source: str, position: int, _vector: str, text: str, metadata: str) -> Document:
    return Document(text, metadata=json.loads(metadata), id=f"{source}#{position}")
