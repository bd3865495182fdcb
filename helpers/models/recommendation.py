"""Which model of the catalogue suits a machine: computed sizes against its memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import accumulate

from helpers.models.catalogue import CATALOGUE, CatalogueEntry

PURPOSES = ("chat", "code", "reasoning", "languages", "teaching")

# Left free in RAM, in MiB. 4 GiB is what Windows 11 asks for to run at all; a browser with some
# tabs and JupyterLab live in it too. Where there are less than 8 GiB, half of them stay free.
RAM_RESERVE = 4096.0
# For the display and the driver in video memory.
_VRAM_RESERVE = 500.0
# Compute buffers, beside weights and cache: a base and the scores of a batch (512 x tokens x 4).
_COMPUTE_BASE = 100.0
# MiB a second at which weights are read: ordinary dual-channel memory, and the memory of
# a mid-range graphics card. Only the order of magnitude matters for the ranking.
_RAM_SPEED = 25_000.0
_VRAM_SPEED = 250_000.0
# Tokens a second that people read.
_READING_SPEED = 6.0
# A doubling of the speed beyond that counts as a quarter of one of the size, up to two doublings:
# who waits for a thinking model reads nothing yet.
_FASTER, _MOST_DOUBLINGS = 0.25, 2.0
# Models of one size get better: a year counts as one doubling of the size. (The "densing law" of
# Xiao et al., Nature Machine Intelligence 2025, has one in about three and a half months.)
_DOUBLINGS_A_YEAR = 1.0
# On a Mac, a model that Metal takes whole is the better choice.
_SPLIT = 1.0
# Loss of quality by recipe, in doublings of the model's size: small above four bits, then steep
# (llama.cpp, tools/quantize/README.md, perplexity by recipe).
_LOSS = {"Q3_K_M": 0.7, "Q4_0": 0.35, "Q4_1": 0.3, "Q4_K_M": 0.2, "Q5_K_M": 0.07, "Q6_K": 0.02}
# Types whose prompts a CPU reads slowly, one of no more loss that it reads faster, and how many
# times: prompts of 512 tokens on an AMD EPYC, with rows of 576 (Q4_1: the embedded model) and of
# 2,048 (notebooks/data/builds_amd_epyc.json, by tests/benchmarks/bench_builds.py).
READS_FASTER = {"Q4_1": ("Q8_0", 2.0), "Q4_K_M": ("Q5_K_M", 1.6)}
# The least that Metal's `recommendedMaxWorkingSetSize` was seen to be, as a share of the memory,
# in llama.cpp's logs. Up to 32 GiB: 10,922.67 MiB of 16 GiB (abetlen/llama-cpp-python#687; on some
# machines 12,713 MB, 74 %), 21,845.34 MiB of 32 (ollama/ollama#434). More: 49,152 MiB of 64
# (ggml-org/llama.cpp#1870; on some 55,663 MB, 81 %), 73,728 of 96 (ggml-org/llama.cpp#3213).
_METAL_SHARE, _METAL_SHARE_OF_MUCH = 2 / 3, 3 / 4
_MUCH = 32 * 1024
_NEWEST = max(entry.released for entry in CATALOGUE.values())


@dataclass(frozen=True)
class Recommendation:
    """One model with one quantization that fits, and why it stands where it does.

    Attributes:
        rank: 1 is the best.
        name: For `find_model`, such as "qwen3.5-4b:Q4_K_M".
        model: The catalogue's entry.
        quantization: Recipe.
        placement: "gpu", "gpu and cpu" or "cpu".
        n_gpu_layers: Layers to offload; the output counts as one.
        n_cpu_moe: First layers whose experts stay on the CPU (a mixture that fills the card).
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
    n_cpu_moe: int
    weights_mib: float
    kv_mib: float
    total_mib: float
    n_ctx: int
    reason: str

    def __str__(self) -> str:
        return f"{self.rank}. {self.name}: {self.total_mib:,.0f} MiB, {self.reason}"


@dataclass(frozen=True)
class _Placed:
    """Where a model's layers go, and what that leaves."""

    n_gpu_layers: int
    n_cpu_moe: int
    spare: float  # MiB, where it is tightest
    where: str
    seconds: float  # for one token, by the reading of its weights


def metal_mib(ram_mib: float) -> float:
    """MiB that Metal may use of a Mac's memory, at the least: what people's logs show.

    The system decides it, by the amount of memory and its own version; on a Mac the log of a load
    and `devices()` say it exactly. `sudo sysctl iogpu.wired_limit_mb=…` sets another limit until
    the next start.

    Example:
        >>> from helpers.models import metal_mib
        >>> round(metal_mib(16 * 1024))
        10923
    """
    return ram_mib * (_METAL_SHARE if ram_mib <= _MUCH else _METAL_SHARE_OF_MUCH)


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
    that a token uses), an older one and one with fewer bits lower, a faster one a little higher,
    and one that would write slower than people read much lower; for "teaching" the smallest come
    first. Sizes are computed (`CatalogueEntry.weights_mib`), speeds only estimated, for ranking.

    A mixture of experts that does not fit the card gets all of its layers onto it, and the experts
    of as few layers as possible stay in RAM (`n_cpu_moe`): a token needs only some of them.

    Args:
        ram_mib: Memory of the machine in MiB; 4 GiB of it, at most half, are left to the system, a
            browser and JupyterLab.
        vram_mib: Memory of the graphics card in MiB; 0 without one. With unified memory: what the
            GPU may take of it; 0 for what Metal takes at the least (`metal_mib`).
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
        raise ValueError(
            f"purpose must be one of {', '.join(PURPOSES)}, not {purpose!r}. To search texts, see "
            "helpers.models.embedding_models()."
        )
    if ram_mib < 0 or vram_mib < 0 or n_ctx < 1:
        raise ValueError("ram_mib and vram_mib must not be negative, and n_ctx at least 1")
    if unified and not vram_mib:
        vram_mib = metal_mib(ram_mib)
    ram = ram_mib - min(RAM_RESERVE, ram_mib / 2)
    vram = max(vram_mib - _VRAM_RESERVE, 0)
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
    n_ctx = min(n_ctx, entry.n_ctx_train)
    weights, kv = entry.weights_mib(quantization), entry.kv_mib(n_ctx)
    compute = _COMPUTE_BASE + 512 * entry.hparams.n_vocab * 4 / 2**20
    placed = None
    if not unified:  # in one memory, nothing is gained by moving experts about
        placed = _with_experts_in_ram(entry, quantization, weights + kv + compute, ram, vram)
    placed = placed or _by_layers(entry, weights, kv, compute, ram, vram, unified)
    if placed.spare < 0:
        return None
    share = entry.hparams.active_share()
    speed = 1 / placed.seconds
    billions = entry.n_params / 1e9
    size = math.log2(billions * math.sqrt(share))
    score = size - _LOSS.get(quantization, 0.0) + (0.8 if purpose in entry.purposes else -0.8)
    score -= _DOUBLINGS_A_YEAR * (_month(_NEWEST) - _month(entry.released)) / 12
    if unified and placed.n_gpu_layers <= entry.hparams.n_layers:
        score -= _SPLIT
    doublings = min(math.log2(speed / _READING_SPEED), _MOST_DOUBLINGS)
    # Slower than people read, they wait: each halving of the speed counts as two of the size.
    score += doublings * (2 if doublings < 0 else _FASTER)
    if purpose == "teaching":
        # Here the answer does not matter: what loads and runs at once comes first.
        score = -size
    reasons = [f"{billions:.2g} billion weights in {quantization}"]
    if share < 1:
        reasons.append(f"of which a token uses {share:.0%}")
    reasons.append(f"{placed.where} with {placed.spare:,.0f} MiB to spare")
    if speed < _READING_SPEED:
        reasons.append("slow here: a model that reads fewer weights would answer sooner")
    if not placed.n_gpu_layers and quantization in READS_FASTER:
        better, times = READS_FASTER[quantization]
        reasons.append(
            f"in {better} it would read prompts {times:.1f} times as fast (measured on an AMD EPYC)"
        )
    reasons.append(f"{'made for' if purpose in entry.purposes else 'not made for'} {purpose}")
    reasons.append(f"of {entry.released}, licence {entry.licence}")
    all_there = placed.n_gpu_layers > entry.hparams.n_layers and not placed.n_cpu_moe
    return score, Recommendation(
        rank=0,
        name=entry.name if entry.embedded else f"{entry.name}:{quantization}",
        model=entry,
        quantization=quantization,
        placement="gpu" if all_there else "gpu and cpu" if placed.n_gpu_layers else "cpu",
        n_gpu_layers=placed.n_gpu_layers,
        n_cpu_moe=placed.n_cpu_moe,
        weights_mib=round(weights, 1),
        kv_mib=round(kv, 1),
        total_mib=round(weights + kv + compute, 1),
        n_ctx=n_ctx,
        reason="; ".join(reasons),
    )


def _month(released: str) -> int:
    year, month = released.split("-")
    return 12 * int(year) + int(month)


def _with_experts_in_ram(
    entry: CatalogueEntry, quantization: str, total: float, ram: float, vram: float
) -> _Placed | None:
    """All layers on the card, the experts of the fewest first layers in RAM; None if not so."""
    hparams = entry.hparams
    in_ram = [0.0, *accumulate(entry.expert_mib(quantization))]  # by the number of layers
    count = next((n for n, moved in enumerate(in_ram) if total - moved <= vram), 0)
    if not count:  # no mixture, all of it fits, or not even the rest does
        return None
    moved = in_ram[count]
    used = hparams.n_experts_used / hparams.n_experts
    on_card = entry.weights_mib(quantization) * hparams.active_share() - moved * used
    return _Placed(
        n_gpu_layers=hparams.n_layers + 1,
        n_cpu_moe=count,
        spare=min(vram - (total - moved), ram - moved),
        where=f"all layers fit the card, the experts of {count} of {hparams.n_layers} stay in RAM",
        seconds=moved * used / _RAM_SPEED + on_card / _VRAM_SPEED,
    )


def _by_layers(
    entry: CatalogueEntry,
    weights: float,
    kv: float,
    compute: float,
    ram: float,
    vram: float,
    unified: bool,
) -> _Placed:
    """As many whole layers on the card as fit."""
    total = weights + kv + compute
    layers = entry.hparams.n_layers + 1
    # The embeddings stay in RAM; counting them with the layers errs on the safe side.
    per_layer = (weights + kv) / layers
    on_gpu = min(layers, int((vram - compute) / per_layer)) if vram > compute else 0
    card = "GPU's share" if unified else "card"
    if on_gpu == layers:
        where = "the GPU takes it whole" if unified else "fits the graphics card whole"
        spare = (min(ram, vram) if unified else vram) - total
    else:
        where = f"{on_gpu} of {layers} layers fit the {card}" if on_gpu else "runs from RAM"
        spare = ram - total + (0 if unified else on_gpu * per_layer)
    reads = weights * entry.hparams.active_share() / layers
    seconds = reads * (on_gpu / _VRAM_SPEED + (layers - on_gpu) / _RAM_SPEED)
    return _Placed(on_gpu, 0, spare, where, seconds)
