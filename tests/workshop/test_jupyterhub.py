"""The class on one machine: a real JupyterHub, its real proxy, and learners that go through it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.workshop.learner import Learner, cells_of

ROOT = Path(__file__).parents[2]
PASSWORD, TEACHER = "class-of-three", "the teacher's password, 32 characters or more"
NAMES = ("ada", "bob", "chen")
WHOLE = bool(os.environ.get("LLAMA_NOTEBOOKS_WHOLE_CLASS"))
"""All three run the whole notebook, instead of the first of them alone."""

CHAT = """
import os
from helpers import ChatLlamaCpp
chat = ChatLlamaCpp(server=os.environ["LLAMA_NOTEBOOKS_SERVER"],
                    key=os.environ["LLAMA_NOTEBOOKS_KEY"], temperature=0, max_tokens=8)
answer = chat.invoke("Which country is Paris in?")
print(answer.content, answer.response_metadata["timings"].generated_tokens)
"""


def _node_is_new_enough() -> bool:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    return int(version.strip().lstrip("v").partition(".")[0] or 0) >= 20


pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not _node_is_new_enough(),
    reason="JupyterHub does not run on Windows, and its proxy needs Node.js 20 or newer",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The class, started as its teacher would; its address and its folder."""
    folder = tmp_path_factory.mktemp("class")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "workshop" / "jupyterhub" / "start.py"),
             "--port", str(port), "--folder", str(folder / "state"), "--parallel", "3"],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "LLAMA_HUB_PASSWORD": PASSWORD, "LLAMA_HUB_TEACHER": TEACHER},
            start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/services/llm/health", process, log)
            yield url, folder / "state"
            process.terminate()
            assert process.wait(60) == 0, log.read_text()[-3000:]
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"{url}/hub/login")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.mark.timeout(900)
def test_three_learners_run_the_first_notebook_and_a_chat(hub: tuple[str, Path]) -> None:
    url, folder = hub
    said, keys = asyncio.run(_class(url))
    assert len(set(said.values())) == 1, said  # greedy: all were told the same
    assert all("France" in one for one in said.values())
    text = (folder / "keys").read_text()
    for name, key in keys.items():
        assert key not in text
        # The notebook server has ended, and its key with it.
        assert _ask(url, key).status_code == 401, name


async def _class(url: str) -> tuple[dict[str, str], dict[str, str]]:
    said, keys = {}, {}

    async def one(name: str) -> None:
        async with Learner(url, name, PASSWORD) as learner:
            await learner.start()
            (key,) = await learner.run(["import os; print(os.environ['LLAMA_NOTEBOOKS_KEY'])"])
            keys[name] = key.strip()
            (said[name],) = await learner.run([CHAT])
            if WHOLE or name == NAMES[0]:
                await learner.run(cells_of(ROOT / "notebooks" / "00_start_here.ipynb"))
            await learner.stop()

    await asyncio.gather(*(one(name) for name in NAMES))
    return said, keys


def _ask(url: str, key: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"prompt": "Hi", "max_tokens": 1}
    return httpx.post(f"{url}/services/llm/v1/completions", json=body, headers=headers, timeout=60)


def test_nobody_comes_in_without_a_key_or_the_password(hub: tuple[str, Path]) -> None:
    url, _ = hub
    assert _ask(url, "nobody").status_code == 401
    assert _ask(url, "lln-wrong").status_code == 401
    with pytest.raises(AssertionError, match="could not log in"):
        asyncio.run(_come_in(url, "ada", "wrong password"))


async def _come_in(url: str, name: str, password: str) -> None:
    async with Learner(url, name, password):
        pass
