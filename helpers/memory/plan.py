"""A memory plan: what a model would need on each device, beside what is free there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from helpers.native import display_names
from helpers.tables import Cells, html_table, text_lines

KINDS = ("weights", "kv", "compute")
_MIB = ">8,.1f"
_COLUMNS = {
    "device": "<24",
    "layers": ">6",
    "weights": _MIB,
    "KV": _MIB,
    "compute": _MIB,
    "MiB": _MIB,
    "free": ">8,.0f",
    "": "<",
}


@dataclass(frozen=True)
class MemoryPlan:
    """What loading a model would take; the same words as `LoadReport`, to compare field by field.

    Attributes:
        model: Name of the model file, without its folder.
        n_ctx: Tokens of context per sequence.
        n_batch: Tokens per decode.
        n_gpu_layers: Layers placed on devices other than the CPU.
        n_layers: Layers that could be (the blocks and the output layer).
        by_device: MiB by device and kind (`weights`, `kv`, `compute`).
        free_mib: Free memory of each device in MiB, when the plan was made.
        margin_mib: What is to stay free there, in MiB, for drivers and other programs.
        reclaimable_mib: What of it is file contents that the system may drop, because they are
            on another device, or stored rearranged.
        layers_on: Number of layers on each device.
        estimated: The compute buffers are a formula's, because llama.cpp could not be asked.
        advice: Sentences: what to change, where it does not fit.
        draft: The part of the draft model (`speculate`) in it, as a plan of its own, or None.
    """

    model: str
    n_ctx: int
    n_batch: int
    n_gpu_layers: int
    n_layers: int
    by_device: Mapping[str, Mapping[str, float]]
    free_mib: Mapping[str, float]
    margin_mib: Mapping[str, float]
    reclaimable_mib: Mapping[str, float] = field(default_factory=dict)
    layers_on: Mapping[str, int] = field(default_factory=dict)
    estimated: bool = False
    advice: tuple[str, ...] = ()
    draft: MemoryPlan | None = None

    @property
    def total_mib(self) -> float:
        """All buffers together, in MiB."""
        return sum(self.needed_mib(name) for name in self.by_device)

    @property
    def fits(self) -> bool:
        """Whether every device has the memory, its margin left free."""
        return not self.lacking_mib

    @property
    def lacking_mib(self) -> dict[str, float]:
        """MiB that are missing, for the devices where it does not fit."""
        lacking = {
            name: self.needed_mib(name)
            - self.reclaimable_mib.get(name, 0.0)
            + self.margin_mib[name]
            - self.free_mib[name]
            for name in self.by_device
        }
        return {name: mib for name, mib in lacking.items() if mib > 0}

    def needed_mib(self, device: str) -> float:
        """MiB of all buffers on a device."""
        return sum(self.by_device[device].values())

    def __str__(self) -> str:
        """A table for the terminal."""
        return "\n  ".join([self._title(), *text_lines(_COLUMNS, self._rows()), *self.advice])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=[self._title()], notes=self.advice)

    def _rows(self) -> list[Cells]:
        shown = display_names(self.by_device)
        rows: list[Cells] = []
        for name, kinds in self.by_device.items():
            lacking = self.lacking_mib.get(name)
            mark = "" if lacking is None else f"<- {lacking:,.0f} short"
            needed = (*(kinds[kind] for kind in KINDS), self.needed_mib(name))
            rows.append(
                (shown[name], self.layers_on.get(name, 0), *needed, self.free_mib[name], mark)
            )
        return rows

    def _title(self) -> str:
        verdict = "fits" if self.fits else "does not fit"
        about = " (compute buffers estimated)" if self.estimated else ""
        models = f"{self.model} and {self.draft.model}" if self.draft else self.model
        return (
            f"{models}: {self.n_gpu_layers} of {self.n_layers} layers on devices, "
            f"context of {self.n_ctx}: {verdict}{about}"
        )
