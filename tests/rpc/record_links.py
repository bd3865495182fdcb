"""Milliseconds per token over three links, measured and predicted: notebook 61's recorded table.

Run it as root on a calm Linux machine, from the repository: `python -m tests.rpc.record_links`. The
other machine is a network namespace, its bandwidth the kernel's (`tc`, tbf), the delay that of a
proxy (`tests.rpc.shaping`). Both machines are this one, so what they compute takes as long on each:
the prediction is what a token takes over the bare cable, and what the link adds to it.
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from helpers import LlamaCpp, default_model, devices, network_cost, remote_device
from tests.rpc.shaping import Wire
from tests.rpc.support import FAR, PROMPT, Lent, far_machine, model, run, why_no_namespaces
from tests.support import ROOT

LINKS = ((0.1, 10_000), (1, 1_000), (20, 100))
"""Milliseconds of a round trip, and Mbit/s."""
FILE = ROOT / "notebooks" / "data" / "rpc_links.csv"
_CABLE = f"llnl-{os.getpid()}"


def shape(mbit: float | None) -> None:
    """Give the cable a bandwidth in both directions; None for what it can."""
    burst = max(16_000, int((mbit or 0) * 25))  # bytes: what a tick lets through
    for where, device in (("", _CABLE), (f"ip netns exec {_CABLE} ", "cable")):
        with contextlib.suppress(subprocess.CalledProcessError):  # there is none
            run(f"{where}tc qdisc del dev {device} root")
        if mbit is not None:
            limit = f"rate {mbit}mbit burst {burst} latency 1s"
            run(f"{where}tc qdisc add dev {device} root tbf {limit}")


def measure(
    links: Sequence[tuple[float, float]], layers: Sequence[int], *, tokens: int, rounds: int
) -> list[dict[str, Any]]:
    """A row for each link and `n_gpu_layers`."""
    rows = []
    with far_machine(_CABLE) as there, Lent(host=FAR, before=there) as lent:
        for n_gpu_layers in layers:
            wire = Wire(lent.address)
            device = remote_device(wire.address)
            # Without this token the model ends when it wants to.
            with model(device, n_gpu_layers=n_gpu_layers, logit_bias={2: -100.0}) as llm:
                llm.invoke(PROMPT)
                seen: dict[Any, list[float]] = {link: [] for link in (None, *links)}
                counts: dict[Any, list[int]] = {}
                for _ in range(rounds):
                    for link, times in seen.items():  # side by side, as the machine's mood changes
                        shape(link[1] if link else None)
                        wire.round_trip_ms = link[0] if link else 0
                        # The first token's graph is sent in both: the difference is the others.
                        fewer, more = (_count(llm, wire, count) for count in (4, tokens + 4))
                        times += (llm.last_timings.token_ms or [])[2:]
                        counts[link] = [a - b for a, b in zip(more, fewer, strict=True)]
                shape(None)
            wire.close()
            bare = statistics.median(seen[None])
            for link in links:
                cost = network_cost(
                    devices=[device], n_gpu_layers=n_gpu_layers, round_trip_ms=link[0], mbit=link[1]
                )
                up, down, trips = (count / tokens for count in counts[link])
                rows.append(
                    {
                        "date": datetime.now(UTC).date().isoformat(),
                        "machine": _machine(),
                        "model": default_model().stem,
                        "round_trip_ms": link[0],
                        "mbit": link[1],
                        "n_gpu_layers": n_gpu_layers,
                        "cable_ms": round(bare, 2),
                        "measured_ms": round(statistics.median(seen[link]), 2),
                        "predicted_ms": round(bare + cost.ms, 2),
                        "up_bytes": round(up),
                        "predicted_up_bytes": cost.up_bytes,
                        "down_bytes": round(down),
                        "predicted_down_bytes": cost.down_bytes,
                        "round_trips": round(trips, 2),
                        "predicted_round_trips": cost.round_trips,
                    }
                )
                print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def _count(llm: LlamaCpp, wire: Wire, tokens: int) -> tuple[int, int, int]:
    wire.reset()
    llm.invoke(PROMPT, max_tokens=tokens)
    return wire.up, wire.down, wire.round_trips


def _machine() -> str:
    cpu = next(device.description for device in devices() if device.kind == "cpu")
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {cpu.strip()}"


def main() -> int:
    """Measure, and write the table."""
    if why := why_no_namespaces():
        print(why, file=sys.stderr)
        return 2
    rows = measure(LINKS, (1, 8, 15, 23, 31), tokens=32, rounds=4)
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
