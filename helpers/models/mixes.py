"""What a quantization recipe makes of a model: bytes, from the shapes of its matrices.

"Q4_K_M" is not a type but a recipe: llama.cpp gives some tensors of some layers more bits. The
rules here are those of `llama_tensor_get_type_impl` in src/llama-quant.cpp (llama-cpp-python
0.3.36), for the recipes that are offered most; a test compares them with files made by llama.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from helpers.models.formats import TENSOR_TYPES
from helpers.models.shapes import Hyperparameters, Matrix

_SIZES = {kind.name: kind for kind in TENSOR_TYPES.values()}
RECIPES = (
    "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "MXFP4_MOE",
)  # fmt: skip
# For rows that cannot be cut into blocks of 256.
_FALLBACK = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# Too small to be worth it, or too sensitive: stored as the converter wrote them.
_AS_THEY_ARE = {
    "ffn_gate_inp": "F32", "ssm_conv1d": "F32", "per_layer_model_proj": "F16",
    "position_embd": "F32",
}  # fmt: skip
_EMBEDDINGS = ("token_embd", "per_layer_token_embd")
_VALUES = ("attn_v", "attn_qkv")


@functools.cache
def weight_bytes(hparams: Hyperparameters, recipe: str) -> int:
    """Bytes of the weights after quantization with a recipe.

    Raises:
        KeyError: The recipe is not known here (see `RECIPES`).
    """
    return sum(size for _, size in matrix_bytes(hparams, recipe))


@functools.cache
def expert_bytes(hparams: Hyperparameters, recipe: str) -> tuple[int, ...]:
    """Bytes of each layer's experts after quantization; empty for a model that is no mixture.

    Raises:
        KeyError: The recipe is not known here (see `RECIPES`).
    """
    sizes = [0] * hparams.n_layers if hparams.n_experts else []
    for matrix, size in matrix_bytes(hparams, recipe):
        if matrix.of_experts:
            sizes[matrix.layer] += size
    return tuple(sizes)


def matrix_bytes(hparams: Hyperparameters, recipe: str) -> Iterator[tuple[Matrix, int]]:
    """Yield every matrix with its bytes after quantization.

    Raises:
        KeyError: The recipe is not known here (see `RECIPES`).
    """
    if recipe not in RECIPES:
        raise KeyError(recipe)
    matrices = list(hparams.matrices())
    n_values = sum(matrix.kind in _VALUES for matrix in matrices)
    seen = 0  # matrices of values: they are counted on their own
    for matrix in matrices:
        stored = _SIZES[_type(hparams, recipe, matrix, seen, n_values)]
        seen += matrix.kind in _VALUES
        yield matrix, matrix.values // stored.block * stored.size


def _type(hparams: Hyperparameters, recipe: str, matrix: Matrix, seen: int, n_values: int) -> str:
    if matrix.kind in _AS_THEY_ARE:
        return _AS_THEY_ARE[matrix.kind]
    chosen = _richer(hparams, recipe, matrix, seen, n_values)
    if matrix.row % _SIZES[chosen].block:
        # The output is stored as Q8_0 outright, the others in the next legacy type.
        chosen = "Q8_0" if _is_output(hparams, matrix) else _FALLBACK[chosen]
    return chosen


def _richer(hparams: Hyperparameters, recipe: str, matrix: Matrix, seen: int, n_values: int) -> str:
    """Which type a recipe gives to a matrix."""
    kind, layer, n_layers = matrix.kind, matrix.layer, hparams.n_layers
    base = recipe.removesuffix("_M").removesuffix("_MOE")
    if recipe in ("F16", "BF16", "Q8_0"):
        return base
    if recipe == "MXFP4_MOE":
        return "MXFP4" if matrix.of_experts else "Q8_0"
    if _is_output(hparams, matrix):
        return "Q6_K"
    eight_experts = hparams.n_experts == 8
    more = recipe in ("Q4_K_M", "Q5_K_M")
    if kind in _VALUES:
        chosen = base
        if more and _more_bits(seen, n_values):
            chosen = "Q6_K"
        elif recipe == "Q3_K_M":
            chosen = "Q5_K" if seen < 2 else "Q4_K"
        if _is_70b(hparams) and chosen in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
        return "Q8_0" if eight_experts else chosen
    if kind == "attn_k" and eight_experts:
        return "Q8_0"
    if kind.startswith("ffn_down"):
        if more and _more_bits(layer, n_layers):
            return "Q6_K"
        if recipe == "Q3_K_M":
            return "Q5_K" if layer < n_layers // 16 else "Q4_K"
    if kind == "attn_output" and recipe in ("Q3_K_M", "Q4_K_M"):
        if eight_experts:
            return "Q5_K"
        return "Q4_K" if recipe == "Q3_K_M" else base
    return base


def _is_output(hparams: Hyperparameters, matrix: Matrix) -> bool:
    return matrix.kind == "output" or (matrix.kind in _EMBEDDINGS and hparams.tied)


def _is_70b(hparams: Hyperparameters) -> bool:
    return hparams.architecture == "llama" and hparams.n_layers == 80 and hparams.n_heads == 64


def _more_bits(index: int, count: int) -> bool:
    """The first and last eighth, and every third between them."""
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2
