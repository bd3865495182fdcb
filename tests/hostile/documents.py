"""Documents: texts that splitters choke on, cut in the middle of a character, or never finish."""

from __future__ import annotations

import os
import signal
import threading
from itertools import pairwise

from langchain_core.documents import Document

from helpers import LlamaCppEmbeddings, split_text
from tests.hostile.base import MODEL, Gives, Raises, Says, Uses, error, in_threads

use = Uses("documents")
FAMILY = "👨‍👩‍👧‍👦"


def model() -> LlamaCppEmbeddings:
    return LlamaCppEmbeddings(model_path=MODEL, n_ctx=256, n_threads=1, show_progress=False)


def splits(text: str, size: int = 64, overlap: int = 8) -> bool:
    """Whether the passages are pieces of the text that fit, in its order, with nothing left out."""
    passages = split_text(text, model(), chunk_size=size, chunk_overlap=overlap)
    spans = [(p.metadata["start"], p.metadata["start"] + len(p.page_content)) for p in passages]
    return (
        all(p.page_content == text[a:b] for p, (a, b) in zip(passages, spans, strict=True))
        and all(p.metadata["tokens"] <= size for p in passages)
        and all(not text[b:c].strip() for (_, b), (c, _) in pairwise(spans))
        and not (text[: spans[0][0]] + text[spans[-1][1] :]).strip()
    )


@use("two megabytes in one line, and in one word", Gives((True, True)))
def two_megabytes_in_one_line() -> object:
    return splits("The river is long. " * 110_000, 256), splits("x" * 400_000, 256)


@use("half a million blanks, and as many marks", Gives((True, True, True)))
def half_a_million_blanks() -> object:
    return (
        splits("a" + " \n\t" * 170_000 + "b"),
        splits("." * 500_000),
        splits("a." + '"' * 250_000 + " " * 250_000 + "b"),
    )


@use("characters of many code points", Gives((True, True, True)))
def characters_of_many_code_points() -> object:
    return splits(FAMILY * 2000), splits("🇰🇷" * 5000), splits("e" + "\u0301" * 20_000)


@use("null bytes, control tokens, line ends of all kinds", Gives(True))
def null_bytes() -> object:
    return splits("a\0b <|im_end|>\r\n\r\n# H\rx\x0b\x0c\x85\u2028y\ufeff\n" * 300)


@use("a hundred thousand headings and open fences", Gives((True, True)))
def a_hundred_thousand_headings() -> object:
    return splits("###### h\n" * 30_000 + "x"), splits("```\n~~~\n# h\n" * 3000)


@use("a passage of one token", Raises("ValueError", "chunk_size=1", "not cut"))
def a_passage_of_one_token() -> object:
    return split_text(FAMILY, model(), chunk_size=1, chunk_overlap=0)


@use("texts that cannot be split", Says("TypeError", "surrogate", "chunk_size=0", "chunk_overlap"))
def texts_that_cannot_be_split() -> object:
    made = model()
    half = Document.model_construct(page_content="\ud800", metadata={})
    return [
        error(lambda: split_text(b"bytes", made)),  # type: ignore[arg-type]
        error(lambda: split_text([half], made)),
        error(lambda: split_text("x", made, chunk_size=0)),
        error(lambda: split_text("x", made, chunk_size=8, chunk_overlap=8)),
    ]


@use("Ctrl-C while a text is split", Gives((True, True)), posix=True)
def ctrl_c_while_a_text_is_split() -> object:
    made = model()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    stopped = False
    try:
        split_text("The river is long. " * 300_000, made)
    except KeyboardInterrupt:
        stopped = True
    return stopped, len(split_text("It is cold.", made)) == 1


@use("splitting in threads while the model closes", Says("closed", "True"))
def splitting_in_threads_while_the_model_closes() -> object:
    made = model()
    threading.Timer(0.5, made.close).start()
    said = in_threads(4, lambda n: len(split_text("The river is long. " * 60_000, made)))
    return f"{said} {splits('It is cold. ' * 100)}"
