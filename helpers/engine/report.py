"""What loading a model really did: layers and buffers by device, read from llama.cpp's own log."""

from __future__ import annotations

from dataclasses import dataclass, field

from helpers.native import display_names
from helpers.tables import html_table, text_lines

_COLUMNS = {"device": "<24", "weights": ">8.1f", "KV": ">8.1f", "compute": ">8.1f", "MiB": ">8.1f"}


@dataclass(frozen=True)
class LoadReport:
    """What a load did; the same words as `MemoryPlan`, so that both compare field by field.

    Attributes:
        model: Name of the model file, without its folder.
        description: llama.cpp's own description, with the quantization.
        n_ctx: Tokens of context per sequence.
        n_batch: Tokens per decode.
        n_gpu_layers: Layers placed on devices other than the CPU.
        n_layers: Layers that could be (the blocks and the output layer).
        by_device: MiB by device and kind (`weights`, `kv`, `compute`).
        flash_attn: Whether flash attention is used.
        n_threads: Compute threads for single tokens.
        load_ms: Loading the weights and making the context, in ms.
        isolated: Whether the model lives in a process of its own.
        pooling: How the tokens of a text become one vector, one of `POOLINGS`; None for a model
            that generates.
        server: Address of the server that has loaded the model; None where this program has.
    """

    model: str
    description: str
    n_ctx: int
    n_batch: int
    n_gpu_layers: int
    n_layers: int
    by_device: dict[str, dict[str, float]] = field(default_factory=dict)
    flash_attn: bool = False
    n_threads: int = 1
    load_ms: float = 0.0
    isolated: bool = False
    pooling: str | None = None
    server: str | None = None

    @property
    def total_mib(self) -> float:
        """All buffers together, in MiB."""
        return sum(sum(kinds.values()) for kinds in self.by_device.values())

    def __str__(self) -> str:
        """A table for the terminal."""
        title, *facts = self._facts()
        return "\n  ".join([title, *facts, *text_lines(_COLUMNS, self._rows())])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=self._facts())

    def _facts(self) -> list[str]:
        return [
            f"{self.model} ({self.description})",
            f"layers on devices: {self.n_gpu_layers} of {self.n_layers}",
            f"context: {self.n_ctx} tokens per sequence, {self.n_batch} per decode",
            f"flash attention: {'on' if self.flash_attn else 'off'}",
            f"threads: {self.n_threads}",
            f"loaded in: {self.load_ms:.0f} ms",
            f"server: {self.server}"
            if self.server is not None
            else f"process: {'its own' if self.isolated else 'this one'}",
            *([f"pooling: {self.pooling}"] if self.pooling else []),
        ]

    def _rows(self) -> list[tuple[str, float, float, float, float]]:
        shown = display_names(self.by_device)
        rows = [
            (shown[name], kinds["weights"], kinds["kv"], kinds["compute"], sum(kinds.values()))
            for name, kinds in self.by_device.items()
        ]
        if len(rows) > 1:
            figures = [row[1:] for row in rows]
            weights, kv, compute, every = (sum(column) for column in zip(*figures, strict=True))
            rows.append(("together", weights, kv, compute, every))
        return rows
