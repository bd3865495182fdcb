"""What a server says of itself: its health for machines, its state for the teacher's page."""

from __future__ import annotations

import time
from typing import Any

import psutil

from helpers.serve.house import House

_SILENT_S = 120.0
"""Something is computed and nothing comes of it for so long: the model hangs."""


def health_of(house: House) -> dict[str, Any]:
    """Whether the server can be asked: "ok", "failing" or "stopping"."""
    desk, metrics = house.desk, house.metrics
    status, silent = "ok", time.monotonic() - max(metrics.last_token, house.admission.busy_since)
    if house.admission.stopping:
        status = "stopping"
    elif metrics.stuck or (desk.running and silent > _SILENT_S):
        status = "failing"
    return {
        "status": status,
        "model": house.served.name,
        "running": desk.running,
        "waiting": desk.waiting,
        "n_parallel": house.settings.n_parallel,
        "queue": house.settings.queue,
        "n_ctx": house.served.n_ctx,
        "keys": house.keys is not None,
    }


def status_of(house: House) -> dict[str, Any]:
    """All that the teacher's page shows."""
    report = house.served.report
    memory = psutil.virtual_memory()
    users = [
        {
            "name": name,
            "in_flight": usage.in_flight,
            "tokens_today": usage.today,
            "requests": usage.requests,
            "errors": usage.errors,
            "last_seen": usage.last_seen,
        }
        for name, usage in house.admission.users.items()
    ]
    return {
        **health_of(house),
        "now": time.time(),
        "began": house.began,
        "description": report.description,
        "users": sorted(users, key=lambda user: -user["last_seen"]),
        "tokens_per_second": house.metrics.history(),
        "generated": house.metrics.generated,
        "memory": {
            "by_device": report.by_device,
            "model_mib": report.total_mib,
            "used_mib": (memory.total - memory.available) / 2**20,
            "total_mib": memory.total / 2**20,
        },
        "errors": [
            {"time": at, "key": key, "status": status, "code": code}
            for at, key, status, code in reversed(house.metrics.errors)
        ],
    }
