"""Will it fit? What a model needs on each device, known before anything is loaded.

Loaded when first used: the simulator's process needs a part of this room alone, and quickly.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.memory.network import NetworkCost as NetworkCost
    from helpers.memory.network import network_cost as network_cost
    from helpers.memory.parallel import suggest_parallel as suggest_parallel
    from helpers.memory.plan import MemoryPlan as MemoryPlan
    from helpers.memory.predict import predict_memory as predict_memory
    from helpers.memory.predict import suggest_gpu_layers as suggest_gpu_layers

_MODULE_OF = {
    "MemoryPlan": "plan",
    "NetworkCost": "network",
    "network_cost": "network",
    "predict_memory": "predict",
    "suggest_gpu_layers": "predict",
    "suggest_parallel": "parallel",
}

__all__ = [
    "MemoryPlan",
    "NetworkCost",
    "network_cost",
    "predict_memory",
    "suggest_gpu_layers",
    "suggest_parallel",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
