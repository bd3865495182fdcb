"""What `ModelChooser` shows, without a widget: every number comes from `recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.memory.targets import METAL
from helpers.models import CATALOGUE, Recommendation, recommend
from helpers.native import Device
from helpers.tables import Cells, html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIB = ">,.0f"
_COLUMNS = {
    " ": ">",
    **dict.fromkeys(("model", "quantization", "runs on"), "<"),
    "weights, MiB": _MIB,
    "KV, MiB": _MIB,
    "in all, MiB": _MIB,
    "why": "<",
}
_CELL = "padding:3px 8px;line-height:1.3;vertical-align:top"


@dataclass(frozen=True)
class Choice:
    """The answer to one setting of the sliders.

    Attributes:
        fitting: What fits, best first.
        too_large: Names of the catalogue's models that do not fit.
    """

    fitting: tuple[Recommendation, ...]
    too_large: tuple[str, ...]

    @property
    def message(self) -> str:
        """One sentence that sums it up."""
        if not self.fitting:
            return "Nothing fits. Give it more memory or a shorter context."
        best = self.fitting[0]
        missing = f"; too large: {', '.join(self.too_large)}" if self.too_large else ""
        return f"{len(self.fitting)} of {len(CATALOGUE)} models fit. Best: {best.name}{missing}."

    def table(self) -> str:
        """What fits as an HTML table."""
        # The lines of a reason are long; Jupyter's own line height would tear the table apart.
        return html_table(_COLUMNS, map(_cells, self.fitting), style=_CELL)

    def figure(self) -> Figure:
        """Memory of what fits as bars."""
        from helpers.plots import plot_bars

        return plot_bars(
            {one.name: one.total_mib for one in self.fitting},
            unit="MiB",
            title="Memory: weights, KV cache and compute buffers",
            notes=[runs_on(one) for one in self.fitting],
        )

    def __str__(self) -> str:
        return "\n".join(
            [
                self.message,
                *(
                    f"{one.rank:>3}. {one.name:<27} {one.total_mib:>8,.0f} MiB  {runs_on(one)}"
                    for one in self.fitting
                ),
            ]
        )


def runs_on(one: Recommendation) -> str:
    """Where a recommendation runs, in a few words."""
    if one.n_cpu_moe:
        return f"GPU, n_cpu_moe={one.n_cpu_moe}"
    return {"cpu": "CPU", "gpu": "GPU", "gpu and cpu": "GPU and CPU"}[one.placement]


def video_memory(devices: Sequence[Device]) -> tuple[float, bool]:
    """GiB of the graphics cards among some devices, and whether they are a part of the RAM."""
    cards = [device for device in devices if device.kind == "gpu"]
    return sum(card.total_mib for card in cards) / 1024, any(c.backend in METAL for c in cards)


def choose(
    ram_gib: float, vram_gib: float, purpose: str, n_ctx: int, *, unified: bool = False
) -> Choice:
    """Ask `recommend`, and name what is missing from its answer.

    Raises:
        ValueError: As `recommend`.
    """
    fitting = recommend(ram_gib * 1024, vram_gib * 1024, purpose, n_ctx=n_ctx, unified=unified)
    names = {one.model.name for one in fitting}
    return Choice(tuple(fitting), tuple(name for name in CATALOGUE if name not in names))


def code_for(one: Recommendation) -> str:
    """The lines that load a recommendation."""
    experts = f"    n_cpu_moe={one.n_cpu_moe},\n" if one.n_cpu_moe else ""
    return (
        "from helpers import LlamaCpp, find_model\n\n"
        "llm = LlamaCpp(\n"
        f'    model_path=find_model("{one.name}"),\n'
        f"    n_ctx={one.n_ctx},\n"
        f"    n_gpu_layers={one.n_gpu_layers},\n"
        f"{experts})"
    )


def _cells(one: Recommendation) -> Cells:
    sizes = (one.weights_mib, one.kv_mib, one.total_mib)
    model = (one.rank, one.model.title, one.quantization, runs_on(one))
    return (*model, *sizes, one.reason)
