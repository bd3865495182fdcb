"""What a server is started with: one frozen object for the command, tests and other hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.checks import check_range, check_seconds, check_text
from helpers.load_options import MAX_SEQUENCES, LoadOptions


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """What one key may use.

    Attributes:
        in_flight: Answers that are computed or wait at a time.
        tokens_per_minute: Tokens of prompts and answers together. Unused ones are saved up for a
            minute, so that a long prompt after a pause is no offence.
    """

    in_flight: int = 4
    tokens_per_minute: int = 20_000

    def __post_init__(self) -> None:
        check_range("in_flight", self.in_flight, 1, 10_000)
        check_range("tokens_per_minute", self.tokens_per_minute, 1, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Which model is served to whom, and within which bounds.

    Attributes:
        model: Any name that `find_model` knows.
        embeddings: A model of its own for /v1/embeddings; None: `model`, loaded a second time for
            embeddings when it is first asked for them.
        host: Address to listen on. Only a loopback address may be served without keys.
        port: Port; 0 for a free one.
        prefix: Path under which a proxy leads to the server without cutting it off, such
            as "/services/llm" for JupyterHub's; "" for none.
        keys: File of keys (`python -m helpers serve keys`); None for a server without.
        n_parallel: Answers computed side by side.
        queue: Answers that may wait beside them; more are refused with 429.
        n_ctx: Tokens of context for each answer; None for 4096 or the model's own if smaller.
        n_gpu_layers: Layers on devices: "auto" what fits, -1 all, 0 none.
        n_threads: Compute threads; None for the physical cores.
        load: Further fields of `ChatLlamaCpp` that say how to load, such as `devices`.
        isolate: Run the model in a process of its own, which the server outlives.
        limits: What a key may use whose line in the file says nothing else.
        body_bytes: Largest body of a request.
        n_choices: Most answers that one request may ask for (`n`, several prompts).
        request_s: Longest time for a request, its wait in the queue included.
        stall_s: Longest time that a client may not read what it is sent, or not send its body.
        grace_s: How long running answers may go on when the server is stopped.
    """

    model: str = "default"
    embeddings: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    prefix: str = ""
    keys: str | None = None
    n_parallel: int = LoadOptions.n_parallel
    queue: int = 64
    n_ctx: int | None = None
    n_gpu_layers: int | str = LoadOptions.n_gpu_layers
    n_threads: int | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    isolate: bool = True
    limits: KeyLimits = KeyLimits()
    body_bytes: int = 2**20
    n_choices: int = 16
    request_s: float = 300.0
    stall_s: float = 30.0
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        check_text("host", self.host)
        check_range("port", self.port, 0, 65535)
        if self.prefix and not re.fullmatch(r"(/[\w.~-]+)+", self.prefix):
            raise ValueError(f"prefix={self.prefix!r} must be a path such as '/services/llm'.")
        check_range("n_parallel", self.n_parallel, 1, MAX_SEQUENCES)
        check_range("queue", self.queue, 0, 100_000)
        check_range("body_bytes", self.body_bytes, 1024, 2**31)
        check_range("n_choices", self.n_choices, 1, 1024)
        for name in ("request_s", "stall_s", "grace_s"):
            check_seconds(name, getattr(self, name))
        if self.keys is None and not is_loopback(self.host):
            raise ValueError(
                f"host={self.host!r} can be reached by other machines, so everybody needs a key. "
                "Make a file of keys with `python -m helpers serve keys add NAME… --keys "
                "keys.txt` and serve with `--keys keys.txt`; or keep to 127.0.0.1."
            )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone; a name other than localhost is not.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
