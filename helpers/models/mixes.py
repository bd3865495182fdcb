"""What a quantization recipe makes of a model: bytes, from the shapes of its tensors.

"Q4_K_M" is not a type but a recipe: llama.cpp gives some tensors of some layers more bits. The
rules here are those of `llama_tensor_get_type_impl` in src/llama-quant.cpp (llama-cpp-python
0.3.36), for the recipes that are offered most; a test compares them with files made by llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from helpers.models.formats import TENSOR_TYPES
from helpers.models.kv_cache import LayerCache, sliding_windows

_SIZES = {kind.name: kind for kind in TENSOR_TYPES.values()}
_BASE = {
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q4_K_M": "Q4_K",
    "Q4_1": "Q4_1",
    "Q4_0": "Q4_0",
    "Q3_K_M": "Q3_K",
    "MXFP4_MOE": "MXFP4",
}
RECIPES = tuple(_BASE)
# For rows that cannot be cut into blocks of 256.
_FALLBACK = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that a decoder's tensors follow from (as in a GGUF header).

    Attributes:
        architecture: llama.cpp's name.
        n_layers: Blocks.
        n_embd: Width of the embeddings.
        n_heads: Heads of attention.
        n_kv_heads: Heads for keys and values.
        head_length: Values of a head.
        n_ff: Width of the feed-forward network (of one expert, in a mixture).
        n_vocab: Tokens.
        tied: The output layer is the embeddings.
        n_experts: Experts of a layer, 0 without.
        n_experts_used: Experts used for a token.
        sliding_window: Tokens that windowed layers see, 0 without; which these are is known from
            the architecture.
    """

    architecture: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_length: int
    n_ff: int
    n_vocab: int
    tied: bool
    n_experts: int = 0
    n_experts_used: int = 0
    sliding_window: int = 0

    def matrices(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield (kind, layer, row length, values) of every matrix; layer -1 is outside the blocks.

        Norms and biases are left out: together they are less than a thousandth of a model.
        """
        yield "token_embd", -1, self.n_embd, self.n_embd * self.n_vocab
        if not self.tied:
            yield "output", -1, self.n_embd, self.n_embd * self.n_vocab
        query = self.n_heads * self.head_length
        keys = self.n_kv_heads * self.head_length
        feed = self.n_embd * self.n_ff * max(self.n_experts, 1)
        for layer in range(self.n_layers):
            yield "attn_q", layer, self.n_embd, self.n_embd * query
            yield "attn_k", layer, self.n_embd, self.n_embd * keys
            yield "attn_v", layer, self.n_embd, self.n_embd * keys
            yield "attn_output", layer, query, self.n_embd * query
            yield "ffn_gate", layer, self.n_embd, feed
            yield "ffn_up", layer, self.n_embd, feed
            yield "ffn_down", layer, self.n_ff, feed
            if self.n_experts:
                yield "router", layer, self.n_embd, self.n_embd * self.n_experts

    @property
    def n_params(self) -> int:
        """Weights, without norms and biases."""
        return sum(values for _, _, _, values in self.matrices())

    def active_share(self) -> float:
        """Share of the weights that one token needs (1.0 without experts)."""
        if not self.n_experts:
            return 1.0
        experts = sum(values for kind, _, _, values in self.matrices() if kind.startswith("ffn_"))
        rest = self.n_params - experts
        return (rest + experts * self.n_experts_used / self.n_experts) / self.n_params

    def weight_bytes(self, recipe: str) -> int:
        """Bytes of the weights after quantization with a recipe.

        Raises:
            KeyError: The recipe is not known here (see `RECIPES`).
        """
        total = 0
        for kind, layer, row, values in self.matrices():
            stored = _SIZES[self._type(recipe, kind, layer, row)]
            total += values // stored.block * stored.size
        return total

    def layer_caches(self) -> tuple[LayerCache, ...]:
        """What each layer keeps of a context, for `kv_mib_by_layer`."""
        width = self.n_kv_heads * self.head_length
        windows = sliding_windows(self.architecture, self.n_layers, self.sliding_window)
        return tuple(LayerCache(width, width, window) for window in windows)

    def _type(self, recipe: str, kind: str, layer: int, row: int) -> str:
        base = _BASE[recipe]
        chosen = "F32" if kind == "router" else self._richer(recipe, base, kind, layer)
        if row % _SIZES[chosen].block:
            # The output is stored as Q8_0 outright, the others in the next legacy type.
            is_output = kind == "output" or (kind == "token_embd" and self.tied)
            chosen = "Q8_0" if is_output else _FALLBACK[chosen]
        return chosen

    def _richer(self, recipe: str, base: str, kind: str, layer: int) -> str:
        """Which type a recipe gives to a kind of tensor in a layer."""
        if recipe in ("F16", "BF16", "Q8_0"):
            return base
        if recipe == "MXFP4_MOE":
            return "MXFP4" if kind.startswith("ffn_") and self.n_experts else "Q8_0"
        if kind == "output" or (kind == "token_embd" and self.tied):
            return "Q6_K"
        eight_experts = self.n_experts == 8
        more = _more_bits(layer, self.n_layers)
        if kind == "attn_v":
            chosen = base
            if recipe in ("Q4_K_M", "Q5_K_M") and more:
                chosen = "Q6_K"
            elif recipe == "Q3_K_M":
                chosen = "Q5_K" if layer < 2 else "Q4_K"
            if self._is_70b() and chosen in ("Q3_K", "Q4_K"):
                chosen = "Q5_K"
            return "Q8_0" if eight_experts else chosen
        if kind == "attn_k" and eight_experts:
            return "Q8_0"
        if kind == "ffn_down":
            if recipe in ("Q4_K_M", "Q5_K_M") and more:
                return "Q6_K"
            if recipe == "Q3_K_M":
                return "Q5_K" if layer < self.n_layers // 16 else "Q4_K"
        if kind == "attn_output" and recipe in ("Q3_K_M", "Q4_K_M"):
            if eight_experts:
                return "Q5_K"
            return "Q4_K" if recipe == "Q3_K_M" else base
        return base

    def _is_70b(self) -> bool:
        return self.architecture == "llama" and self.n_layers == 80 and self.n_heads == 64


def _more_bits(layer: int, n_layers: int) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
