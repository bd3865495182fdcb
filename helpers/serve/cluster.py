"""The server on many machines: `python -m helpers serve --cluster`, on Ray Serve.

One gate on the head node (`cluster_gate`) and a replica with the model on every node
(`cluster_replica`). Ray starts, watches and replaces them; conversations keep to the replica that
has their prefix by Serve's consistent hashing, and go to the next one when it has no place.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from helpers.errors import HelpersError
from helpers.models import find_model
from helpers.serve.settings import ServeSettings

APP = "llama-notebooks"
_READY_S = 120.0
_ATTEMPTS = 3
_HEAD = "node:__internal_head__"
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# Ray would send figures about the cluster to its makers, and warn of colours.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0"}


def deploy(
    settings: ServeSettings,
    address: str | None = None,
    *,
    replicas: tuple[int, int] | None = None,
    health_s: float = 10.0,
    probe_after_s: float = 20.0,
    probe_s: float = 60.0,
) -> str:
    """Start the server on a Ray cluster, or bring a running one up to date.

    Args:
        settings: What is served to whom. `host` and `port` are those of the head node, port 0 for
            a free one; each machine finds `model` by itself.
        address: Of the cluster; None: the one that runs on this machine, or else one is started
            here, which is reached from this machine alone; "local": such a one in any case.
        replicas: Fewest and most of them; default: one on each node (on each GPU, where there are
            any) to begin with, and down to one when nobody asks for ten minutes.
        health_s: Seconds between two health checks of a replica.
        probe_after_s: After so long without a token, a health check asks for one.
        probe_s: How long that one may take before the model counts as hung.

    Returns:
        The address of the server.

    Raises:
        HelpersError: Ray is not installed, there is no cluster, it serves on another port already,
            or the model does not load.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    try:
        import ray
        from ray import serve
        from ray.serve.context import _get_global_client
    except ImportError as error:
        raise HelpersError(
            "Serving on a cluster needs Ray: python -m pip install 'llama-notebooks[cluster]'"
        ) from error
    find_model(settings.model)  # here, before many machines try in vain
    _join(ray, address)
    found = ray.cluster_resources()
    gpus = int(found.get("GPU", 0))
    nodes = sum(node["Alive"] for node in ray.nodes())
    fewest, most = replicas or (1, gpus or nodes)
    port = settings.port
    if not port:
        with socket.create_server((settings.host, 0)) as free:
            port = free.getsockname()[1]
    serve.start(
        proxy_location="HeadOnly",
        http_options=serve.HTTPOptions(host=settings.host, port=port),
    )
    port = _get_global_client().http_config.port  # of what runs already, nothing is changed
    if settings.port not in {0, port}:
        raise HelpersError(
            f"This cluster serves on port {port} already. Take --port {port}, or end what it "
            "serves with `serve shutdown` first."
        )
    settings = replace(settings, port=port)
    if settings.keys is not None:
        settings = replace(settings, keys=str(Path(settings.keys).expanduser().resolve()))
    application = _application(
        settings, (fewest, most), bool(gpus), health_s, (probe_after_s, probe_s)
    )
    try:
        serve.run(
            application,
            name=APP,
            route_prefix="/",
            logging_config={"enable_access_log": False},
        )
    except RuntimeError as error:
        raise HelpersError(
            f"The server did not start on the cluster: {error} The files logs/serve in the folder "
            "of Ray's session, on the machine where it failed, say why."
        ) from error
    _await_answer(settings)
    return f"http://{settings.host}:{settings.port}"


def _await_answer(settings: ServeSettings) -> None:
    """Wait until the gate can be asked: Ray says that it runs before its port is open."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            httpx.get(f"http://{host}:{settings.port}/health", timeout=10, trust_env=False)
            return
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                raise HelpersError(
                    f"Ray started the server, but nothing answers at port {settings.port} after "
                    f"{_READY_S:.0f} s ({error}). Is the port taken, or the machine very busy?"
                ) from error
        time.sleep(0.2)


def _join(ray: Any, address: str | None) -> None:
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address != "local":
            ray.init(address=address or "auto", **quiet)
            return
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is not None:
            raise HelpersError(
                f"There is no Ray cluster at {address!r}. On the first machine run `ray start "
                "--head`, on each other one `ray start --address=FIRST:6379`, in the environment "
                "of this suite, in a network that only they are in."
            ) from error
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
            return
        except Exception as error:  # Ray raises no kind of its own
            ray.shutdown()  # half of it may run: it gives a node half a minute, however busy it is
            if attempt == _ATTEMPTS:
                raise HelpersError(
                    "Ray did not start on this machine. If it is busy, try once more, or start it "
                    f"by hand with `ray start --head`. Ray says: {error}"
                ) from error


def _application(
    settings: ServeSettings,
    replicas: tuple[int, int],
    gpu: bool,
    health_s: float,
    probe: tuple[float, float],
) -> Any:
    from ray import serve

    from helpers.serve.cluster_replica import Replica

    fewest, most = replicas
    replica = serve.deployment(
        name="Replica",
        ray_actor_options={"num_gpus": 1} if gpu else {"num_cpus": 1},
        max_replicas_per_node=None if gpu else 1,
        max_ongoing_requests=settings.n_parallel,
        max_queued_requests=-1,  # the gate's queue is the one with a limit
        autoscaling_config={
            "min_replicas": fewest,
            "initial_replicas": most,
            "max_replicas": most,
            "target_ongoing_requests": settings.n_parallel,
            "upscale_delay_s": 5,
            "downscale_delay_s": 600,
        },
        health_check_period_s=health_s,
        health_check_timeout_s=probe[1] + 30,
        graceful_shutdown_timeout_s=settings.grace_s,
        request_router_config={
            "request_router_class": _ROUTER,
            "request_router_kwargs": {"num_fallback_replicas": 1000},
        },
    )(Replica)

    def build() -> Any:  # runs on the head node
        from helpers.serve.cluster_gate import gate_app

        handle = serve.get_deployment_handle("Replica", app_name=APP)

        def ask(asked: Any, session: str) -> Any:
            return handle.options(stream=True, session_id=session).ask.remote(asked)

        def count() -> int:
            states = serve.status().applications[APP].deployments["Replica"].replica_states
            return int(states.get("RUNNING", 0))

        return gate_app(settings, ask, count)

    class Gate:
        def __init__(self, replicas: Any) -> None: ...

    gate = serve.deployment(
        name="Gate",
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD: 0.001}},
        max_ongoing_requests=100_000,
        graceful_shutdown_timeout_s=settings.grace_s,
    )(serve.ingress(build)(Gate))
    return gate.bind(replica.bind(settings, *probe))


def run_cluster(
    settings: ServeSettings,
    address: str | None = None,
    *,
    replicas: tuple[int, int] | None = None,
    tell: Callable[[str], None],
) -> int:
    """Deploy, and stay until Ctrl-C or SIGTERM; then running answers finish.

    Args:
        settings: What is served to whom.
        address: Of the cluster; see `deploy`.
        replicas: Fewest and most of them.
        tell: Called with the server's address, once it can be asked.

    Returns:
        The command's exit status.
    """
    url = deploy(settings, address, replicas=replicas)
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after `deploy`: Ray sets its own
        signal.signal(number, lambda *_: end.set())
    tell(url)
    while not end.wait(0.2):  # a signal that another thread has got does not wake this one
        pass
    import ray
    from ray import serve

    serve.delete(APP)  # waits for its answers, as `shutdown` does not
    serve.shutdown()
    ray.shutdown()  # a cluster that was started here ends with it
    return 0
