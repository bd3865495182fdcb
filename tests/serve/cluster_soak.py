"""A class on a cluster whose machines die: `python -m tests.serve.cluster_soak [NODES LEARNERS]`.

Starts so many Ray nodes on this machine (default: 3, and 30 learners), deploys the server, lets the
learners talk, and meanwhile ends a replica, stops a model, and ends a node. Prints what the
learners met with, and last one line of JSON; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from helpers.serve.keys import add_keys
from helpers.serve.settings import KeyLimits, ServeSettings

SLOTS = 2
QUEUE = 64
WHOLE, ERROR, BROKEN, HALF = "whole", "error", "broken", "half an answer called whole"
_CALM = {"all at once", "afterwards", "then", "at last"}
"""When nothing is killed."""
_PATIENCE_S = 300.0


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def ray_nodes(count: int) -> Iterator[Any]:
    """So many Ray nodes on this machine, the first of them the head."""
    import ray
    from ray._private import services, utils
    from ray.cluster_utils import Cluster

    # Ray gives a node half a minute, and the agents beside it a quarter: too short for a busy
    # machine. The dashboard's agent starts fast where it has nothing to do.
    utils.get_dashboard_dependency_error = lambda: ImportError("not needed here")
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    }
    services.get_node = patiently(services.get_node)
    services.start_raylet = with_ports(services.start_raylet)
    options = {
        "num_cpus": 1,
        "object_store_memory": 80_000_000,
        "include_log_monitor": False,
    }
    cluster = Cluster()
    try:
        cluster.add_node(include_dashboard=False, **options)
        for _ in range(count - 1):
            cluster.add_node(**options)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def with_ports(start: Callable[..., Any]) -> Callable[..., Any]:
    """A start of a raylet that finds the ports of its agents, and need not wait for them."""
    from ray import _raylet

    def started(*given: Any, **options: Any) -> Any:
        options["runtime_env_agent_port"] = free_port()
        ports = dict.fromkeys(
            (
                _raylet.METRICS_AGENT_PORT_NAME,
                _raylet.METRICS_EXPORT_PORT_NAME,
                _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
            ),
            -1,  # not there
        )
        ports[_raylet.RUNTIME_ENV_AGENT_PORT_NAME] = options["runtime_env_agent_port"]
        for name, port in ports.items():
            _raylet.persist_port(given[11], given[2], name, port)  # session's folder, node
        return start(*given, **options)

    return started


def patiently(ask: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is asked again while it raises a RuntimeError."""

    def asked(*arguments: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    return asked


@dataclass
class Told:
    """What a client was told of one answer."""

    text: str = ""
    outcome: str = BROKEN
    detail: str = ""
    cached: int = 0


@dataclass
class Class:
    """Learners with keys, at a server."""

    url: str
    keys: dict[str, str]
    told: list[Told] = field(default_factory=list)

    async def ask(
        self, http: httpx.AsyncClient, name: str, messages: list[dict[str, str]], tokens: int
    ) -> Told:
        """Ask one question, streamed, and judge how the answer ended."""
        told = Told()
        self.told.append(told)
        body = {
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "logit_bias": {"0": -100, "2": -100},
        }
        headers = {"authorization": f"Bearer {self.keys[name]}"}
        finished = done = False
        try:
            async with http.stream(
                "POST", f"{self.url}/v1/chat/completions", json=body, headers=headers
            ) as answer:
                if answer.status_code != 200:
                    problem = json.loads(await answer.aread())["error"]
                    told.outcome, told.detail = ERROR, problem["code"]
                    return told
                async for event in _events(answer):
                    if event == "[DONE]":
                        done = True
                        continue
                    chunk = json.loads(event)
                    if "error" in chunk:
                        told.outcome, told.detail = ERROR, chunk["error"]["code"]
                        continue
                    choice = chunk["choices"][0]
                    told.text += choice["delta"].get("content") or ""
                    finished = finished or choice["finish_reason"] is not None
                    told.cached = (chunk.get("timings") or {}).get("cached_tokens") or told.cached
        except httpx.HTTPError as error:
            told.detail = repr(error)
            return told
        if told.outcome != ERROR:
            told.outcome = WHOLE if finished and done else HALF
        elif done:
            told.outcome = HALF
        return told

    async def ask_all(
        self, tokens: int, when: Callable[[], None] | None = None, begun: int = 1
    ) -> Counter[str]:
        """Every learner asks; as soon as so many answers have begun, something happens."""
        first = len(self.told)
        async with _client() as http:
            asking = [
                asyncio.create_task(self.ask(http, name, _question(name), tokens))
                for name in self.keys
            ]
            if when is not None:
                while sum(bool(told.text) for told in self.told[first:]) < begun:
                    assert not all(task.done() for task in asking), self.told[first:]
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(when)
            await asyncio.gather(*asking)
        return Counter(told.outcome for told in self.told[first:])


def _client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(timeout=_PATIENCE_S, limits=limits, trust_env=False)


async def _events(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield line[6:]


def _question(name: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"I am {name}. Tell me a story of a river."}]


async def converse(people: Class) -> dict[str, int]:
    """Two turns each through OpenAI's client; how many second turns found their first one."""
    from openai import AsyncOpenAI

    # One at a time: none has to go elsewhere, and none takes another's place.
    places = asyncio.Semaphore(1)

    async def talk(name: str) -> bool:
        async with (
            places,
            AsyncOpenAI(
                base_url=f"{people.url}/v1", api_key=people.keys[name], timeout=_PATIENCE_S
            ) as client,
        ):
            messages: list[Any] = list(_question(name))
            usages = []
            for _ in range(2):
                reply = await client.chat.completions.create(
                    model=await _model(client), messages=messages, max_tokens=8, temperature=0
                )
                choice, usage = reply.choices[0], reply.usage
                assert choice.finish_reason in {"stop", "length"}, reply
                assert usage is not None and usage.prompt_tokens_details is not None
                usages.append(usage)
                messages += [
                    {"role": "assistant", "content": choice.message.content or ""},
                    {"role": "user", "content": "Go on."},
                ]
            return usages[1].prompt_tokens_details.cached_tokens >= usages[0].prompt_tokens

    found = await asyncio.gather(*map(talk, people.keys))
    return {"talked": len(found), "stuck": sum(found)}


async def _model(client: Any) -> str:
    page = await client.models.list()
    return str(page.data[0].id)


# -- what is killed -------------------------------------------------------------------------------


_TITLE = re.compile("ray::.*llama-notebooks[:#]Replica")


def replica_processes() -> list[psutil.Process]:
    """The processes of replicas of the nodes that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if _TITLE.match(" ".join(process.cmdline())):
                found.append(process)
    return found


def model_processes() -> list[psutil.Process]:
    """The processes that hold the models."""
    found = []
    for replica in replica_processes():
        with contextlib.suppress(psutil.Error):
            found += [
                child
                for child in replica.children(recursive=True)
                if "helpers.isolation.child" in child.cmdline()
            ]
    return found


def until(condition: Callable[[], object], what: str, seconds: float = _PATIENCE_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in {seconds:.0f} seconds never: {what}"
        time.sleep(0.1)


def healthy(url: str, replicas: int) -> bool:
    """Whether so many replicas answer, each with its model."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        health = httpx.get(f"{url}/health", timeout=30, trust_env=False).json()
        return bool(health["replicas"] == replicas and len(model_processes()) == replicas)
    return False


def soak(nodes: int, learners: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do it all; what came of it."""
    from helpers.serve.cluster import deploy

    began, found = time.monotonic(), {}

    def note(name: str, value: Any) -> None:
        found[name] = dict(value) if isinstance(value, Counter) else value
        say(f"{time.monotonic() - began:6.1f} s  {name}: {found[name]}")

    with tempfile.TemporaryDirectory() as folder, ray_nodes(nodes) as cluster:
        note("nodes", nodes)
        file = Path(folder) / "keys.txt"
        people = Class("", add_keys(file, [f"learner{n:02d}" for n in range(learners)]))
        settings = ServeSettings(
            port=free_port(),
            keys=str(file),
            n_parallel=SLOTS,
            queue=QUEUE,
            n_ctx=512,
            n_threads=1,
            n_gpu_layers=0,
            limits=KeyLimits(in_flight=2, tokens_per_minute=1_000_000),
        )
        people.url = deploy(
            settings, cluster.address, health_s=1.0, probe_after_s=2.0, probe_s=10.0
        )
        until(lambda: healthy(people.url, nodes), "a replica on each node")
        note("deployed", nodes)
        models = {process.pid for process in model_processes()}
        note("all at once", asyncio.run(people.ask_all(8)))
        note("conversations", asyncio.run(converse(people)))
        note("busy models kept", models == {process.pid for process in model_processes()})

        def end_replica() -> None:
            replica_processes()[0].kill()

        note("replica killed", asyncio.run(people.ask_all(24, end_replica, begun=2)))
        until(lambda: healthy(people.url, nodes), "the replica is replaced")
        note("afterwards", asyncio.run(people.ask_all(4)))

        def stop_model() -> None:
            stopped.append(model_processes()[0])
            os.kill(stopped[0].pid, signal.SIGSTOP)

        stopped: list[psutil.Process] = []
        note("model hangs", asyncio.run(people.ask_all(24, stop_model, begun=2)))
        until(lambda: not stopped[0].is_running(), "the hung model is noticed")
        note("then", asyncio.run(people.ask_all(4)))

        def end_node() -> None:
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

        until(lambda: healthy(people.url, nodes), "all models are back")
        note("node killed", asyncio.run(people.ask_all(24, end_node, begun=2)))
        note("at last", asyncio.run(people.ask_all(4)))
        details = Counter(told.detail for told in people.told if told.outcome != WHOLE)
        note("errors", details)
        from ray import serve

        serve.shutdown()
    note("seconds", round(time.monotonic() - began))
    return found


def wrong(found: dict[str, Any], learners: int) -> list[str]:
    """What must not have happened."""
    faults = []
    for name, outcomes in found.items():
        if isinstance(outcomes, dict) and name not in {"errors", "conversations"}:
            if set(outcomes) - {WHOLE, ERROR}:
                faults.append(f"{name}: {outcomes}")
            if (
                name in {"all at once", "afterwards", "then", "at last"}
                and outcomes.get(WHOLE) != learners
            ):
                faults.append(f"{name}: not every answer is whole: {outcomes}")
            # Who had not begun must not notice: no more than the slots of one machine can fail.
            if outcomes.get(ERROR, 0) > SLOTS:
                faults.append(f"{name}: an answer that had not begun was lost: {outcomes}")
    if found["conversations"] != {"talked": learners, "stuck": learners}:
        faults.append(f"conversations did not keep to their replica: {found['conversations']}")
    if not found["busy models kept"]:
        faults.append("a model that was busy was ended")
    if set(found["errors"]) - {"engine_crashed"}:
        faults.append(f"errors: {found['errors']}")
    return faults


if __name__ == "__main__":
    count, people = (int(word) for word in sys.argv[1:3] or ("3", "30"))
    result = soak(count, people)
    result["wrong"] = wrong(result, people)
    print(json.dumps(result))
    sys.exit(bool(result["wrong"]))
