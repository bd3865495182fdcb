"""Which model of the catalogue suits a machine: computed sizes against its memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from helpers.models.catalogue import CATALOGUE, CatalogueEntry

PURPOSES = ("chat", "code", "reasoning", "languages", "teaching")

# Kept free: for the system and a notebook in RAM, for the display and the driver in video memory.
_RAM_RESERVE = 1500.0
_VRAM_RESERVE = 500.0
# Compute buffers, beside weights and cache: a base and the scores of a batch (512 x tokens x 4).
_COMPUTE_BASE = 100.0
# MiB a second at which weights are read: ordinary dual-channel memory, and the memory of
# a mid-range graphics card. Only the order of magnitude matters for the ranking.
_RAM_SPEED = 25_000.0
_VRAM_SPEED = 250_000.0
# Tokens a second that people read.
_READING_SPEED = 6.0
# Loss of quality by recipe, in doublings of the model's size: small above four bits, then steep
# (llama.cpp, tools/quantize/README.md, perplexity by recipe).
_LOSS = {"Q3_K_M": 0.7, "Q4_0": 0.35, "Q4_1": 0.3, "Q4_K_M": 0.2, "Q5_K_M": 0.07, "Q6_K": 0.02}


@dataclass(frozen=True)
class Recommendation:
    """One model with one quantization that fits, and why it stands where it does.

    Attributes:
        rank: 1 is the best.
        name: For `find_model`, such as "qwen3-4b:Q4_K_M".
        model: The catalogue's entry.
        quantization: Recipe.
        placement: "gpu", "gpu and cpu" or "cpu".
        n_gpu_layers: Layers to offload; the output counts as one.
        weights_mib: MiB of the weights.
        kv_mib: MiB of the KV cache at `n_ctx`.
        total_mib: Both and the compute buffers.
        n_ctx: Tokens of context that this is computed for.
        reason: Why it is here, in words.
    """

    rank: int
    name: str
    model: CatalogueEntry
    quantization: str
    placement: str
    n_gpu_layers: int
    weights_mib: float
    kv_mib: float
    total_mib: float
    n_ctx: int
    reason: str

    def __str__(self) -> str:
        return f"{self.rank}. {self.name}: {self.total_mib:,.0f} MiB, {self.reason}"


def recommend(
    ram_mib: float,
    vram_mib: float = 0,
    purpose: str = "chat",
    *,
    n_ctx: int = 4096,
    unified: bool = False,
) -> list[Recommendation]:
    """Rank the catalogue's models that fit a machine, each with its best quantization that fits.

    A larger model ranks higher (a mixture of experts by the geometric mean of all weights and those
    that a token uses), one with fewer bits lower, and one that would write slower than people read
    much lower; for "teaching" the smallest come first. Sizes are computed
    (`CatalogueEntry.weights_mib`), speeds only estimated, for the ranking.

    Args:
        ram_mib: Memory of the machine in MiB; 1.5 GiB of it are left to the system.
        vram_mib: Memory of the graphics card in MiB; 0 without one. With unified memory: what the
            GPU may take of it, on Apple silicon about two thirds.
        purpose: "chat", "code", "reasoning", "languages" or "teaching".
        n_ctx: Tokens of context to plan for (a model's own limit if that is less).
        unified: The GPU's memory is a part of `ram_mib` (Apple silicon).

    Returns:
        Best first; empty if nothing fits.

    Raises:
        ValueError: An unknown purpose, or a negative size.

    Example:
        >>> from helpers import recommend
        >>> recommend(16_000)[0].placement
        'cpu'
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose must be one of {', '.join(PURPOSES)}, not {purpose!r}")
    if ram_mib < 0 or vram_mib < 0 or n_ctx < 1:
        raise ValueError("ram_mib and vram_mib must not be negative, and n_ctx at least 1")
    ram, vram = max(ram_mib - _RAM_RESERVE, 0), max(vram_mib - _VRAM_RESERVE, 0)
    best = []
    for entry in CATALOGUE.values():
        fits = [
            fit
            for quantization in entry.quantizations
            if (fit := _fit(entry, quantization, ram, vram, unified, purpose, n_ctx)) is not None
        ]
        if fits:
            best.append(max(fits, key=lambda fit: fit[0]))
    best.sort(key=lambda fit: -fit[0])
    return [dataclasses.replace(fit, rank=rank) for rank, (_, fit) in enumerate(best, start=1)]


def _fit(
    entry: CatalogueEntry,
    quantization: str,
    ram: float,
    vram: float,
    unified: bool,
    purpose: str,
    n_ctx: int,
) -> tuple[float, Recommendation] | None:
    """Score and recommendation, not yet ranked; None if it does not fit."""
    hparams = entry.hparams
    n_ctx = min(n_ctx, entry.n_ctx_train)
    weights, kv = entry.weights_mib(quantization), entry.kv_mib(n_ctx)
    compute = _COMPUTE_BASE + 512 * hparams.n_vocab * 4 / 2**20
    total = weights + kv + compute
    layers = hparams.n_layers + 1
    # The embeddings stay in RAM; counting them with the layers errs on the safe side.
    per_layer = (weights + kv) / layers
    on_gpu = min(layers, int((vram - compute) / per_layer)) if vram > compute else 0
    if on_gpu == layers:
        placement, where = "gpu", "fits the graphics card whole"
        spare = (min(ram, vram) if unified else vram) - total
    else:
        placement, where = "cpu", "runs from RAM"
        if on_gpu:
            placement, where = "gpu and cpu", f"{on_gpu} of {layers} layers fit the card"
        spare = ram - total + (0 if unified else on_gpu * per_layer)
    if spare < 0:
        return None
    share = hparams.active_share()
    speed = layers / (weights * share * (on_gpu / _VRAM_SPEED + (layers - on_gpu) / _RAM_SPEED))
    billions = entry.n_params / 1e9
    size = math.log2(billions * math.sqrt(share))
    score = size - _LOSS.get(quantization, 0.0) + (0.8 if purpose in entry.purposes else -0.8)
    # Slower than this and people wait: each halving of the speed counts as two of the size.
    score += 2 * min(math.log2(speed / _READING_SPEED), 0)
    if purpose == "teaching":
        # Here the answer does not matter: what loads and runs at once comes first.
        score = -size
    reasons = [f"{billions:.2g} billion weights in {quantization}"]
    if hparams.n_experts:
        reasons.append(f"of which a token uses {share:.0%}")
    reasons.append(f"{where} with {spare:,.0f} MiB to spare")
    if speed < _READING_SPEED:
        reasons.append("slow here: a model that reads fewer weights would answer sooner")
    reasons.append(f"{'made for' if purpose in entry.purposes else 'not made for'} {purpose}")
    reasons.append(f"licence {entry.licence}")
    return score, Recommendation(
        rank=0,
        name=entry.name if entry.embedded else f"{entry.name}:{quantization}",
        model=entry,
        quantization=quantization,
        placement=placement,
        n_gpu_layers=on_gpu,
        weights_mib=round(weights, 1),
        kv_mib=round(kv, 1),
        total_mib=round(total, 1),
        n_ctx=n_ctx,
        reason="; ".join(reasons),
    )
