"""Embeddings: batches, lengths and ends that kill a process with other libraries."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from helpers import LlamaCpp, LlamaCppEmbeddings
from tests.hostile.base import FRANCE, MODEL, Gives, Raises, Says, Uses, error, in_threads, works
from tests.models.gguf_builders import tiny_llama
from tests.support import child_of

use = Uses("embeddings")


def vectors(**fields: Any) -> LlamaCppEmbeddings:
    small = {"model_path": MODEL, "n_ctx": 256, "n_threads": 1, "show_progress": False}
    return LlamaCppEmbeddings(**{**small, **fields})


def tiny(**fields: Any) -> LlamaCppEmbeddings:
    """A small model with random weights: many texts take no time."""
    path = tiny_llama(Path("tiny.gguf"))
    return vectors(**{"model_path": path, **fields})


def grown_mib() -> float:
    """MiB of this process, at its largest so far."""
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def embeds(model: LlamaCppEmbeddings) -> bool:
    return bool(np.isfinite(model.embed_query(FRANCE)).all())


@use("n_batch above the micro-batch (llama-cpp-python #1762)", Gives([True, True, True]))
def n_batch_above_the_micro_batch() -> object:
    text = "word " * 40
    return [
        len(tiny(n_batch=n_batch, model_kwargs=more).embed_query(text)) == 64
        for n_batch, more in ((4096, {}), (1, {}), (512, {"n_ubatch": 16}))
    ]


@use("a context that sequences do not divide", Gives([True, True, True]))
def a_context_that_sequences_do_not_divide() -> object:
    return [len(tiny(n_ctx=n_ctx).embed_query("word")) == 64 for n_ctx in (129, 200, 255)]


@use("more texts than sequences (llama-cpp-python #2051)", Gives((1500, True)))
def more_texts_than_sequences() -> object:
    found = np.array(tiny().embed_documents(["a"] * 1500))
    return len(found), bool(np.isfinite(found).all())


@use("a text longer than a micro-batch (llama.cpp #25293)", Gives([True, True]))
def a_text_longer_than_a_micro_batch() -> object:
    path = tiny_llama(Path("long.gguf"), context=2048)
    text = "word " * 300
    return [
        embeds_alike(vectors(model_path=path, n_ctx=2048, model_kwargs={"n_ubatch": size}), text)
        for size in (8, 512)
    ]


def embeds_alike(model: LlamaCppEmbeddings, text: str) -> bool:
    """Whether a text of more than 1,000 tokens has one vector, alone and among others."""
    assert len(model.get_token_ids(text)) > 1000
    alone, among = model.embed_query(text), model.embed_documents(["x", text, "y"])[1]
    return bool(np.allclose(alone, among, atol=1e-4))


@use("100,000 texts", Gives((100_000, True, True)), posix=True)
def a_hundred_thousand_texts() -> object:
    model = tiny()
    model.embed_documents(["a", "b"] * 500)
    before = grown_mib()
    found = model.embed_documents([f"{n % 1000}" for n in range(100_000)])
    # A Python number takes 24 bytes and its place in a list 8: 195 MiB.
    return len(found), np.allclose(found[7], found[99_007], atol=1e-4), grown_mib() - before < 400


@use("one text of 2 MB", Gives((True, True)))
def one_text_of_2_mb() -> object:
    model = tiny()
    text = "river " * 350_000
    refused = "ContextOverflowError" in repr(error(lambda: model.embed_documents([text])))
    cut = model.model_copy(update={"truncate": True})
    return refused, len(cut.embed_documents(["x", text])[1]) == 64


@use("a text longer than the context", Raises("ContextOverflowError", "tokens", "Split it"))
def a_text_longer_than_the_context() -> object:
    return vectors().embed_query("river " * 100_000)


@use("texts that are none", Says("TypeError", "surrogate", "True"))
def texts_that_are_none() -> object:
    model = tiny()
    said = [
        str(error(lambda odd=odd: model.embed_documents(["x", odd]))) for odd in (None, "\ud800")
    ]
    return f"{error(lambda: model.embed_documents([b'x']))!r} {said} {embeds(model)}"


@use("empty texts and null bytes", Gives(True))
def empty_texts_and_null_bytes() -> object:
    return bool(
        np.isfinite(vectors().embed_documents(["", "\0", " ", "\n" * 50, "\x00\x00a"])).all()
    )


@use("a pooling for text", Raises("ValueError", "pooling_type=3", "embeddings"))
def a_pooling_for_text() -> object:
    return LlamaCpp(model_path=MODEL, model_kwargs={"pooling_type": 3})


@use("embedding from many threads while one closes", Gives(True))
def embedding_from_many_threads_while_one_closes() -> object:
    model = vectors()

    def work(number: int) -> object:
        if number == 3:
            time.sleep(0.5)
            model.close()
        return error(lambda: model.embed_documents([f"text {number} {n}" for n in range(200)]))

    in_threads(6, work)
    return embeds(vectors())


@use("Ctrl-C while vectors are computed", Gives((True, True)), posix=True)
def ctrl_c_while_vectors_are_computed() -> object:
    model = vectors()
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    stopped = False
    try:
        model.embed_documents(["a longer text about rivers " * 8] * 400)
    except KeyboardInterrupt:
        stopped = True
    return stopped, embeds(model)


@use("kill -9 of the process that makes vectors", Says("EngineCrashed", "True"), posix=True)
def kill_9_of_the_process_that_makes_vectors() -> object:
    model = vectors(isolate=True)
    child = child_of(model._engine)
    threading.Timer(1, os.kill, (child, signal.SIGKILL)).start()
    said = error(lambda: model.embed_documents(["a longer text about rivers " * 8] * 400))
    return f"{said} {embeds(model)}"


@use("vectors after a fork, and out of a pickle", Gives((0, True)), posix=True)
def vectors_after_a_fork() -> object:
    model = vectors()
    embeds(model)
    child = os.fork()
    if not child:
        said = str(error(lambda: model.embed_query("x")))
        os._exit(0 if "forked" in said else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, embeds(pickle.loads(pickle.dumps(model)))


@use("text and vectors of one file at once", Gives((True, True)))
def text_and_vectors_of_one_file_at_once() -> object:
    llm = LlamaCpp(model_path=MODEL, n_ctx=256, temperature=0, n_threads=1)
    model = vectors()
    found = in_threads(4, lambda n: works(llm) if n % 2 else embeds(model))
    return all(found[::2]), all(found[1::2])
