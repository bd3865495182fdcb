"""How many answers side by side a machine has the memory for: what decides the size of a class."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from typing import Any

from helpers.load_options import MAX_SEQUENCES
from helpers.memory.predict import make_planner
from helpers.native import Device


def suggest_parallel(
    model: str | os.PathLike[str] | None = None,
    *,
    devices: Sequence[Device] | None = None,
    **settings: Any,
) -> int:
    """The largest `n_parallel` of a server whose model and contexts fit the memory as a whole.

    All layers go to the devices, or to the CPU where there is none. Memory alone is asked: whether
    so many answers come fast enough has to be measured (`python -m helpers bench --serve`).

    Args:
        model: A GGUF file; None for the embedded model.
        devices: Devices that take layers; None for this machine's, and a `Device` of your own
            making for a card that you do not have.
        settings: As in `predict_memory`: `n_ctx`, the tokens of each answer's context, `type_k` …

    Returns:
        1 to 256; 0 where not even one fits.

    Raises:
        ModelFileError: The file is no model that llama.cpp can load.
        ValueError: A value has no meaning.
        TypeError: An unknown setting.

    >>> from helpers.native import Device
    >>> card = Device("CUDA0", "8 GiB", "gpu", "CUDA", total_mib=8192, free_mib=8192)
    >>> 8 <= suggest_parallel(devices=[card], n_ctx=4096) < 256
    True
    """

    def lacks(n_parallel: int) -> bool:
        planner = make_planner(
            model, devices=devices, n_parallel=n_parallel, continuous_batching=True, **settings
        )
        return not planner.plan(-1).fits

    return bisect.bisect_left(range(1, MAX_SEQUENCES + 1), True, key=lacks)
