"""Record how much more two machines' replicas answer than one: `notebooks/data/replicas.csv`.

`python -m tests.serve.record_replicas`: two Ray nodes on this machine, one thread for each replica,
so that two cores stand for two machines. "on paper" is the first row times the replicas. Run it on
a calm machine.
"""

from __future__ import annotations

import asyncio
import csv
import random
import time

import httpx

from helpers.bench.table import describe_machine
from helpers.serve.cluster import deploy
from helpers.serve.settings import ServeSettings
from tests.serve.cluster_soak import free_port, healthy, ray_nodes, until
from tests.serve.record_times import NO_END, SLOTS
from tests.support import ROOT

FILE = ROOT / "notebooks" / "data" / "replicas.csv"
TOKENS, PROMPT = 64, 50


async def tokens_per_second(url: str, learners: int) -> float:
    """What all learners together get, each with two questions after the other."""

    async def learner(number: int) -> None:
        source = random.Random(number)
        for _ in range(2):
            prompt = [source.randrange(1000, 40_000) for _ in range(PROMPT)]
            body = {"prompt": prompt, "max_tokens": TOKENS, "logit_bias": NO_END}
            answer = await http.post("/v1/completions", json=body)
            answer.raise_for_status()

    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        await learner(-1)
        began = time.monotonic()
        await asyncio.gather(*map(learner, range(learners)))
        return learners * 2 * TOKENS / (time.monotonic() - began)


def main() -> None:
    """Write the table."""
    rows: list[dict[str, object]] = []
    port = free_port()
    with ray_nodes(2) as cluster:
        for replicas in (1, 2):
            settings = ServeSettings(
                port=port,
                n_threads=1,
                n_parallel=SLOTS,
                n_gpu_layers=0,
                n_ctx=512,
            )
            url = deploy(settings, cluster.address, replicas=(replicas, replicas))
            until(lambda: healthy(url, replicas), f"{replicas} replicas")  # noqa: B023
            speed = asyncio.run(tokens_per_second(url, 2 * SLOTS))
            first = float(str(rows[0]["tokens_per_second"])) if rows else speed
            rows.append(
                {
                    "replicas": replicas,
                    "tokens_per_second": round(speed, 1),
                    "on_paper": round(first * replicas, 1),
                }
            )
            print(rows[-1], flush=True)
    with FILE.open("w", encoding="utf-8", newline="") as file:
        facts = "; ".join(f"{name}: {value}" for name, value in describe_machine().items())
        file.write(f"# python -m tests.serve.record_replicas; {facts}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
