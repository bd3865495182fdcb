"""The planner: weights and cache from the header's table, compute buffers from llama.cpp itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from helpers.memory.cache import kv_mib_by_layer, padded_context
from helpers.memory.kv_types import kv_type
from helpers.memory.placement import CPU, expert_mib, place_layers, reclaimable_mib, weights_mib
from helpers.memory.plan import MemoryPlan
from helpers.memory.simulate import Simulation, simulate_load
from helpers.memory.targets import free_mib
from helpers.models import inspect_model
from helpers.native import Device, available_mib, practice_split
from helpers.native import devices as all_devices

_MIB = 1024 * 1024
_MAPPED_BACKENDS = ("Metal", "MTL")
"""Backends that, like the CPU, use the mapped file where it is (`buffer_from_host_ptr`)."""


@dataclass(frozen=True)
class Setting:
    """What a plan depends on, beside the number of layers; all values settled and checked.

    Attributes:
        path: The model file.
        devices: Devices that take layers, in order.
        n_ctx: Tokens of context per sequence.
        n_batch: Tokens handed over in one decode.
        n_ubatch: Tokens computed at once.
        type_k: ggml type of the keys; None for f16.
        type_v: ggml type of the values; None for f16.
        flash_attn: True, False, or None for llama.cpp's choice.
        n_parallel: Sequences of a batch; 1 plans for calls one by one.
        use_mmap: The file is mapped instead of read.
        model_settings: `tensor_split`, `split_mode`, `main_gpu` …, as sorted pairs.
        context_settings: `offload_kqv`, `swa_full` …, as sorted pairs.
        margin_mib: What is to stay free on each device; None for an eighth, 1024 MiB at most.
    """

    path: Path
    devices: tuple[Device, ...]
    n_ctx: int
    n_batch: int = 512
    n_ubatch: int = 512
    type_k: int | None = None
    type_v: int | None = None
    flash_attn: bool | None = None
    n_parallel: int = 1
    use_mmap: bool = True
    model_settings: tuple[tuple[str, Any], ...] = ()
    context_settings: tuple[tuple[str, Any], ...] = ()
    margin_mib: float | None = None


class Planner:
    """Plans for one setting and any number of layers; after the first few, in microseconds.

    Args:
        setting: What to plan for.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.info = inspect_model(setting.path)
        self.n_layers = self.info.n_layers + 1
        self._cache: tuple[float, ...] | None = None
        self._known: dict[int, Mapping[str, float] | None] = {}

    def plan(self, n_gpu_layers: int) -> MemoryPlan:
        """What `n_gpu_layers` layers on the devices need (-1 for all)."""
        count = self.n_layers if n_gpu_layers < 0 else min(n_gpu_layers, self.n_layers)
        return self._plan(count if self.setting.devices else 0)

    def prepare(self) -> None:
        """Ask llama.cpp for every compute buffer that `plan` will need: some tenths of a second."""
        for count in {0, 1, 2, (self.n_layers + 1) // 2, self.n_layers}:
            self.plan(count)

    def largest(self) -> int:
        """The most layers that fit their devices; what is left to the CPU is not limited."""
        if not self.setting.devices:
            return 0
        low, high = 0, self.n_layers
        if self._fits_devices(high):
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits_devices(middle) else (low, middle)
        return low

    def _fits_devices(self, count: int) -> bool:
        return all(name == CPU for name in self._plan(count, with_advice=False).lacking_mib)

    def _plan(self, count: int, *, with_advice: bool = True) -> MemoryPlan:
        setting, info = self.setting, self.info
        model = dict(setting.model_settings)
        context = dict(setting.context_settings)
        placement = place_layers(
            info.n_layers,
            count,
            setting.devices,
            tensor_split=model.get("tensor_split") or self._practice_split(),
            split_mode=model.get("split_mode", 1),
            main_gpu=model.get("main_gpu", 0),
        )
        compute = self._compute(count)
        names = [CPU, *(device.name for device in setting.devices)]
        by_device = {name: {"weights": 0.0, "kv": 0.0, "compute": 0.0} for name in names}
        mapped = [CPU] if setting.use_mmap else []
        if setting.use_mmap:
            mapped += [d.name for d in setting.devices if d.backend in _MAPPED_BACKENDS]
        for name, mib in weights_mib(info, placement, mapped=mapped).items():
            by_device[name]["weights"] = mib
        on_cpu = not context.get("offload_kqv", True)
        for name, mib in zip(placement, self._kv(), strict=False):
            by_device[CPU if on_cpu else name]["kv"] += mib
        for name, mib in (compute or self._estimate(count)).items():
            by_device.setdefault(name, {"weights": 0.0, "kv": 0.0, "compute": 0.0})
            by_device[name]["compute"] = mib
        free = {CPU: available_mib()} | {d.name: free_mib(d) for d in setting.devices}
        total = {CPU: psutil.virtual_memory().total / _MIB}
        total |= {device.name: device.total_mib for device in setting.devices}
        plan = MemoryPlan(
            model=info.path.name,
            n_ctx=setting.n_ctx,
            n_batch=setting.n_batch,
            n_gpu_layers=count,
            n_layers=self.n_layers,
            by_device=by_device,
            free_mib={name: free.get(name, 0.0) for name in by_device},
            margin_mib={name: self._margin(total.get(name, 0.0)) for name in by_device},
            reclaimable_mib={CPU: reclaimable_mib(info, placement, mapped=mapped)},
            layers_on={name: placement.count(name) for name in by_device},
            estimated=compute is None,
        )
        return replace(plan, advice=tuple(self._advice(plan))) if with_advice else plan

    def _practice_split(self) -> tuple[float, ...] | None:
        """Practice accelerators share by the memory that each was given, as in the engine."""
        devices = self.setting.devices
        return practice_split(
            [(d.name, d.endpoint) for d in devices], [d.total_mib for d in devices]
        )

    def _margin(self, total_mib: float) -> float:
        given = self.setting.margin_mib
        return min(1024.0, total_mib / 8) if given is None else given

    # -- cache and compute buffers ----------------------------------------------------------------

    def _kv(self) -> tuple[float, ...]:
        """MiB of cache by block, for one sequence and for the batch's sequences."""
        if self._cache is None:
            setting = self.setting
            context = dict(setting.context_settings)
            by_layer = kv_mib_by_layer(
                self.info,
                setting.n_ctx,
                setting.type_k,
                setting.type_v,
                swa_full=bool(context.get("swa_full", True)),
                n_ubatch=setting.n_ubatch,
            )
            simulation = self._simulate(self.n_layers if setting.devices else 0, 1)
            simulation = simulation or self._simulate(0, 1)
            if simulation is not None:
                by_layer = _corrected(by_layer, simulation)
            sequences = 1 + (setting.n_parallel if setting.n_parallel > 1 else 0)
            self._cache = tuple(mib * sequences for mib in by_layer)
        return self._cache

    def _compute(self, count: int) -> Mapping[str, float] | None:
        """MiB of compute buffers by device.

        They differ for the first two layers on a device and for the last, and are the same for
        every count between: one in the middle stands for them all.
        """
        alike = 2 < count < self.n_layers
        return self._compute_at((self.n_layers + 1) // 2 if alike else count)

    def _compute_at(self, count: int) -> Mapping[str, float] | None:
        if count not in self._known:
            contexts = [1] + ([self.setting.n_parallel] if self.setting.n_parallel > 1 else [])
            found: dict[str, float] | None = {}
            for n_seq in contexts:
                simulation = self._simulate(count, n_seq)
                if simulation is None or found is None:
                    found = None
                    continue
                for name, mib in simulation.compute.items():
                    found[name] = found.get(name, 0.0) + mib
            self._known[count] = found
        return self._known[count]

    def _simulate(self, count: int, n_seq: int) -> Simulation | None:
        setting = self.setting
        used = setting.devices if count else ()
        present = {device.name for device in all_devices()} if used else set()
        if any(device.endpoint is None and device.name not in present for device in used):
            return None  # a device that somebody thought up: llama.cpp cannot be asked
        return simulate_load(
            setting.path,
            n_gpu_layers=count,
            devices=used,
            n_ctx=setting.n_ctx,
            n_seq=n_seq,
            n_batch=setting.n_batch,
            n_ubatch=setting.n_ubatch,
            type_k=setting.type_k,
            type_v=setting.type_v,
            flash_attn=setting.flash_attn,
            model_settings=tuple(
                {"tensor_split": self._practice_split(), **dict(setting.model_settings)}.items()
            ),
            context_settings=setting.context_settings,
        )

    def _estimate(self, count: int) -> dict[str, float]:
        """MiB of compute buffers by a formula, fitted to simulated loads of llama models.

        Activations of one block for the tokens computed at once, and the attention mask; without
        flash attention also the scores of all heads.
        """
        setting, info = self.setting, self.info
        cells = padded_context(setting.n_ctx)
        width = 3 * (info.n_embd + max(info.n_ff, default=0) * max(info.n_experts_used, 1))
        values = 4 * width + 2 * cells
        if setting.flash_attn is False:
            values += 4 * cells * max(info.n_heads, default=0)
        each = setting.n_ubatch * values / _MIB
        if not count:
            return {CPU: each}
        share = 0.4 if count == self.n_layers else 1.0
        return {CPU: each * share} | {device.name: each for device in setting.devices}

    # -- advice -----------------------------------------------------------------------------------

    def _advice(self, plan: MemoryPlan) -> list[str]:
        if plan.fits:
            return []
        lines = []
        if any(name != CPU for name in plan.lacking_mib):
            most = self.largest()
            lines.append(
                f"n_gpu_layers={most} is the most that fits."
                if most
                else "Not even one layer fits: n_gpu_layers=0 keeps all on the CPU."
            )
            lines += [
                f"{change} would make room for {layers} layers."
                for change, other in self._smaller()
                if (layers := Planner._sharing(self, other).largest()) > most
            ]
        else:
            lines.append("The machine's memory is too small: take a smaller model or context.")
        experts = expert_mib(self.info)
        if experts:
            lines.append(
                f"{experts:,.0f} MiB are experts, of which a token uses {self.info.n_experts_used} "
                f"of {self.info.n_experts}: the layers that stay on the CPU cost less speed than "
                "in a dense model."
            )
        return lines

    def _smaller(self) -> list[tuple[str, Setting]]:
        """Changes that need less memory, the ones that cost least first."""
        setting = self.setting
        changes = []
        if setting.type_k is None and setting.flash_attn is not False:
            q8 = kv_type("type_k", "q8_0")
            changes.append(('type_k="q8_0", type_v="q8_0"', replace(setting, type_k=q8, type_v=q8)))
        if setting.n_ctx >= 1024:
            half = setting.n_ctx // 2
            changes.append((f"n_ctx={half}", replace(setting, n_ctx=half)))
        return changes

    def _sharing(self, setting: Setting) -> Planner:
        """A planner for a smaller setting that takes this one's compute buffers: at most too much.

        Advice must not cost another round of simulated loads.
        """
        other = Planner(setting)
        other._known = self._known
        fresh = kv_mib_by_layer(self.info, setting.n_ctx, setting.type_k, setting.type_v)
        mine = kv_mib_by_layer(
            self.info, self.setting.n_ctx, self.setting.type_k, self.setting.type_v
        )
        other._cache = tuple(
            real * (new / old if old else 1)
            for real, new, old in zip(self._kv(), fresh, mine, strict=True)
        )
        return other


def _corrected(by_layer: Sequence[float], simulation: Simulation) -> tuple[float, ...]:
    """The header's cache sizes, scaled to what llama.cpp says that each of its caches takes."""
    sizes = [0.0] * len(by_layer)
    for total, layers in simulation.caches:
        reckoned = sum(by_layer[layer] for layer in layers)
        for layer in layers:
            share = by_layer[layer] / reckoned if reckoned else 1 / len(layers)
            sizes[layer] += total * share
    return tuple(sizes)
