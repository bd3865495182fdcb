"""The planner: weights and cache from the header's table, compute buffers from llama.cpp itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import psutil

from helpers.load_options import LoadOptions
from helpers.memory.placement import CPU, expert_mib, place_layers, reclaimable_mib, weights_mib
from helpers.memory.plan import MemoryPlan
from helpers.memory.simulate import Simulation, simulate_load
from helpers.memory.targets import METAL, free_mib
from helpers.models import inspect_model
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches, padded_context, takes_back
from helpers.native import Device, available_mib, practice_split
from helpers.native import devices as all_devices

_MIB = 1024 * 1024


class Planner:
    """Plans for one set of options and any number of layers; after the first few, in microseconds.

    Args:
        options: How the model would be loaded, with numbers for `n_ctx`, `n_batch` and `n_ubatch`;
            its `n_gpu_layers` and `devices` do not count. `n_parallel` is the sequences of a batch,
            which get a context beside that of single calls; 1 plans for single calls.
        devices: Devices that take layers, in order.
        margin_mib: What is to stay free on each device; None for an eighth, 1024 MiB at most.
    """

    def __init__(
        self, options: LoadOptions, devices: Sequence[Device], margin_mib: float | None = None
    ) -> None:
        self.options = options
        self.devices = tuple(devices)
        self.margin_mib = margin_mib
        assert options.n_ctx, "settle the options first"
        self._n_ctx = options.n_ctx
        self.info = inspect_model(options.model_path)
        self.n_layers = self.info.n_layers + 1
        self._draft: Planner | None = None
        self._cache: tuple[float, ...] | None = None
        self._known: dict[int, Mapping[str, float] | None] = {}

    def plan(self, n_gpu_layers: int) -> MemoryPlan:
        """What `n_gpu_layers` layers on the devices need (-1 for all)."""
        count = self.n_layers if n_gpu_layers < 0 else min(n_gpu_layers, self.n_layers)
        return self._plan(count if self.devices else 0)

    def prepare(self) -> None:
        """Ask llama.cpp for every compute buffer that `plan` will need: some tenths of a second."""
        for count in {0, 1, 2, (self.n_layers + 1) // 2, self.n_layers}:
            self.plan(count)

    def largest(self) -> int:
        """The most layers that fit their devices; what is left to the CPU is not limited."""
        if not self.devices:
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
        options, info = self.options, self.info
        placement = place_layers(
            info.n_layers,
            count,
            self.devices,
            tensor_split=options.tensor_split or self._practice_split(),
            split_mode=options.split_mode,
            main_gpu=options.main_gpu,
        )
        compute = self._compute(count)
        names = [CPU, *(device.name for device in self.devices)]
        by_device = {name: {"weights": 0.0, "kv": 0.0, "compute": 0.0} for name in names}
        mapped = [CPU] if options.use_mmap else []
        if options.use_mmap:
            # Like the CPU, Metal uses the mapped file where it is (`buffer_from_host_ptr`).
            mapped += [d.name for d in self.devices if d.backend in METAL]
        for name, mib in weights_mib(
            info, placement, mapped=mapped, n_cpu_moe=options.n_cpu_moe
        ).items():
            by_device[name]["weights"] = mib
        for name, mib in zip(placement, self._kv(), strict=False):
            by_device[name if options.offload_kqv else CPU]["kv"] += mib
        for name, mib in (compute or self._estimate(count)).items():
            by_device.setdefault(name, {"weights": 0.0, "kv": 0.0, "compute": 0.0})
            by_device[name]["compute"] = mib
        by_device[CPU]["compute"] += self._outputs_mib()
        draft = self._draft_plan(count)
        for name, kinds in draft.by_device.items() if draft is not None else ():
            for kind, mib in kinds.items():
                by_device[name][kind] += mib
        free = {CPU: available_mib()} | {d.name: free_mib(d) for d in self.devices}
        total = {CPU: psutil.virtual_memory().total / _MIB}
        total |= {device.name: device.total_mib for device in self.devices}
        plan = MemoryPlan(
            model=info.path.name,
            n_ctx=self._n_ctx,
            n_batch=options.n_batch,
            n_gpu_layers=count,
            n_layers=self.n_layers,
            by_device=by_device,
            free_mib={name: free.get(name, 0.0) for name in by_device},
            margin_mib={name: self._margin(total.get(name, 0.0)) for name in by_device},
            reclaimable_mib={
                CPU: reclaimable_mib(info, placement, mapped=mapped, n_cpu_moe=options.n_cpu_moe)
            },
            layers_on={name: placement.count(name) for name in by_device},
            estimated=compute is None or (draft is not None and draft.estimated),
            draft=draft,
        )
        return replace(plan, advice=tuple(self._advice(plan))) if with_advice else plan

    def _draft_plan(self, count: int) -> MemoryPlan | None:
        """What the draft model needs: all of it is where layers of the large one are."""
        options = self.options
        if options.draft_path is None or not takes_back(self.info, swa_full=options.swa_full):
            return None  # such a model is loaded without one
        if self._draft is None:
            fitted = replace(self.options, n_gpu_layers=-1).for_draft()
            self._draft = Planner(fitted, self.devices, self.margin_mib)
        return self._draft._plan(self._draft.n_layers if count else 0, with_advice=False)

    def _practice_split(self) -> tuple[float, ...] | None:
        """Practice accelerators share by the memory that each was given, as in the engine."""
        return practice_split(
            [(d.name, d.endpoint) for d in self.devices], [d.total_mib for d in self.devices]
        )

    def _margin(self, total_mib: float) -> float:
        given = self.margin_mib
        return min(1024.0, total_mib / 8) if given is None else given

    # -- cache and compute buffers ----------------------------------------------------------------

    def _kv(self) -> tuple[float, ...]:
        """MiB of cache by block, for one sequence and for the batch's sequences."""
        if self._cache is None:
            by_layer = self._computed_kv(self.options)
            first = self._sequences()[0]
            simulation = self._simulate(self.n_layers if self.devices else 0, first)
            simulation = simulation or self._simulate(0, first)
            if simulation is not None:
                by_layer = _corrected(by_layer, simulation)
            # The texts of a batch to embed share one cache.
            sequences: float = 1 if self.options.embeddings else sum(self._sequences())
            if simulation is not None and not self.options.embeddings:
                sequences /= first
            self._cache = tuple(mib * sequences for mib in by_layer)
        return self._cache

    def _computed_kv(self, options: LoadOptions) -> tuple[float, ...]:
        """MiB of cache by block for one sequence, as the header tells."""
        return kv_mib_by_layer(
            layer_caches(self.info),
            options.n_ctx or 0,
            options.type_k,  # type: ignore[arg-type]
            options.type_v,  # type: ignore[arg-type]
            swa_full=options.swa_full,
            n_ubatch=options.n_ubatch,
        )

    def _compute(self, count: int) -> Mapping[str, float] | None:
        """MiB of compute buffers by device.

        They differ for the first two layers on a device and for the last, and are the same for
        every count between: one in the middle stands for them all. Not so where some blocks have
        their experts elsewhere.
        """
        alike = 2 < count < self.n_layers and not self.options.n_cpu_moe
        return self._compute_at((self.n_layers + 1) // 2 if alike else count)

    def _compute_at(self, count: int) -> Mapping[str, float] | None:
        if count not in self._known:
            found: dict[str, float] | None = {}
            for n_seq in self._sequences():
                simulation = self._simulate(count, n_seq)
                if simulation is None or found is None:
                    found = None
                    continue
                for name, mib in simulation.compute.items():
                    found[name] = found.get(name, 0.0) + mib
            self._known[count] = found
        return self._known[count]

    def _sequences(self) -> list[int]:
        """Sequences of each context: that of single calls, and that of batches, if not of both."""
        options = self.options
        if options.embeddings:
            return [options.n_texts]
        if options.continuous_batching:
            return [options.n_parallel]
        return [1, options.n_parallel] if options.n_parallel > 1 else [1]

    def _outputs_mib(self) -> float:
        """MiB that the longest text adds to a load for embeddings.

        llama.cpp keeps room for the logits and the vectors of all tokens, and a load makes room
        for one of each text.
        """
        options, info = self.options, self.info
        more = self._n_ctx - options.n_texts if options.embeddings else 0
        return more * 4 * (info.n_vocab + info.n_embd) / _MIB

    def _simulate(self, count: int, n_seq: int) -> Simulation | None:
        used = self.devices if count else ()
        present = {device.name for device in all_devices()} if used else set()
        if any(device.endpoint is None and device.name not in present for device in used):
            return None  # a made-up device: llama.cpp cannot be asked
        for device in used:
            if device.endpoint is not None:
                free_mib(device)  # raises where it is lost, which must not be remembered
        options = replace(
            self.options.for_layers(count),
            tensor_split=self.options.tensor_split or self._practice_split(),
        )
        return simulate_load(options, used, n_seq=n_seq)

    def _estimate(self, count: int) -> dict[str, float]:
        """MiB of compute buffers by a formula, fitted to simulated loads of llama models.

        Activations of one block for the tokens computed at once, and the attention mask; without
        flash attention also the scores of all heads.
        """
        options, info = self.options, self.info
        cells = padded_context(self._n_ctx)
        width = 3 * (info.n_embd + max(info.n_ff, default=0) * max(info.n_experts_used, 1))
        values = 4 * width + 2 * cells
        if options.flash_attn is False:
            values += 4 * cells * max(info.n_heads, default=0)
        each = options.n_ubatch * values / _MIB
        if not count:
            return {CPU: each}
        share = 0.4 if count == self.n_layers else 1.0
        return {CPU: each * share} | {device.name: each for device in self.devices}

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
                if (layers := other.largest()) > most
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

    def _smaller(self) -> list[tuple[str, Planner]]:
        """Changes that need less memory, the ones that cost least first."""
        options = self.options
        changes = []
        if self.info.n_experts and options.n_cpu_moe < self.info.n_layers:
            changes.append(self._fewest_experts_on_cpu())
        if options.type_k is None and options.flash_attn is not False:
            q8 = replace(options, type_k="q8_0", type_v="q8_0")
            changes.append(('type_k="q8_0", type_v="q8_0"', self._sharing(q8)))
        if self._n_ctx >= 1024:
            half = self._n_ctx // 2
            changes.append((f"n_ctx={half}", self._sharing(replace(options, n_ctx=half))))
        return changes

    def _fewest_experts_on_cpu(self) -> tuple[str, Planner]:
        """The smallest `n_cpu_moe` with which all layers fit; all of the experts if none does."""
        low, high = self.options.n_cpu_moe, self.info.n_layers
        while high - low > 1:
            middle = (low + high) // 2
            other = self._sharing(replace(self.options, n_cpu_moe=middle))
            low, high = (low, middle) if other.largest() == self.n_layers else (middle, high)
        # With its own compute buffers: a device may compute experts that are not its own.
        other = Planner(replace(self.options, n_cpu_moe=high), self.devices, self.margin_mib)
        return f"n_cpu_moe={high}", other

    def _sharing(self, options: LoadOptions) -> Planner:
        """A planner for smaller options that takes this one's compute buffers: at most too much.

        Advice must not cost another round of simulated loads.
        """
        other = Planner(options, self.devices, self.margin_mib)
        other._known = self._known
        fresh, mine = self._computed_kv(options), self._computed_kv(self.options)
        other._cache = tuple(
            real * (new / old if old else 1)
            for real, new, old in zip(self._kv(), fresh, mine, strict=True)
        )
        return other


def _corrected(by_layer: Sequence[float], simulation: Simulation) -> tuple[float, ...]:
    """The header's cache sizes, scaled to what llama.cpp says that each of its caches takes."""
    sizes = [0.0] * len(by_layer)
    for total, layers in simulation.caches:
        computed = sum(by_layer[layer] for layer in layers)
        for layer in layers:
            share = by_layer[layer] / computed if computed else 1 / len(layers)
            sizes[layer] += total * share
    return tuple(sizes)
