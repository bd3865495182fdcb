"""One loaded model for the engine's tests, and llama-cpp-python's own class beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.engine import Engine
from helpers.isolation import make_core
from helpers.models import default_model
from helpers.native import usable_cores
from tests.support import options


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    with Engine(options()) as made:
        yield made


@pytest.fixture(scope="package")
def isolated() -> Iterator[Engine]:
    with Engine(options(isolate=True), make_core) as made:
        yield made


@pytest.fixture(scope="package")
def raw() -> Iterator[Any]:
    """llama-cpp-python's `Llama` with the engine's settings."""
    import llama_cpp

    cores = usable_cores()
    made = llama_cpp.Llama(
        str(default_model()),
        n_ctx=1024,
        n_batch=512,
        n_threads=cores,
        n_threads_batch=cores,
        flash_attn=True,
        verbose=False,
    )
    yield made
    made.close()
