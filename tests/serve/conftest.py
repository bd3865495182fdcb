"""One real server for the session: a process of its own, with keys, two slots and a short queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from helpers.serve import KeyLimits, serve
from helpers.serve.keys import add_keys
from tests.support import wait_for

PLENTY = KeyLimits(in_flight=100, tokens_per_minute=10_000_000)


@dataclass
class Running:
    """A server that runs, and who may ask it."""

    process: serve
    keys: dict[str, str]
    file: Path

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def model(self) -> str:
        return self.process.model

    def http(self, name: str = "learner") -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.keys[name]}"},
            timeout=120,
            trust_env=False,
            verify=False,  # a context for certificates is what takes longest here
        )

    def status(self) -> dict[str, object]:
        with self.http("teacher") as http:
            answer = http.get("/status")
            assert answer.status_code == 200, answer.text
            found: dict[str, object] = answer.json()
            return found

    def calm(self) -> bool:
        """Wait until nothing is computed or waits any more."""
        return wait_for(lambda: self.status()["running"] == 0)

    def engines(self) -> list[psutil.Process]:
        """The processes that hold the model: for text, and for vectors if they were asked for."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if "helpers.isolation.child" in child.cmdline()
        ]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys = add_keys(file, ["learner", "other"], limits=PLENTY)
    keys |= add_keys(file, ["teacher"], limits=PLENTY, teacher=True)
    keys |= add_keys(file, ["poor"], limits=KeyLimits(in_flight=100, tokens_per_minute=30))
    keys |= add_keys(file, ["one"], limits=KeyLimits(in_flight=1))
    with serve(keys=file, parallel=2, queue=2, n_ctx=1024, threads=2) as process:
        yield Running(process, keys, file)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=server.keys["learner"], max_retries=0
    ) as made:
        yield made


LONG = {"max_tokens": 500, "temperature": 0, "logit_bias": {"0": "-inf", "2": "-inf"}}
"""An answer that does not end by itself for a while."""
