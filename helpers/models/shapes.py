"""The matrices of a model, from the numbers in its configuration: no file is needed.

The rules are those of llama.cpp's models (`load_arch_tensors` in src/models/*.cpp of
llama-cpp-python 0.3.36). What a recipe makes of the matrices is computed in `mixes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from helpers.models.kv_cache import WITHOUT_CACHE, LayerCache, recurrent_state, sliding_windows


class Matrix(NamedTuple):
    """One matrix, or the same matrix of all experts of a layer.

    Attributes:
        kind: llama.cpp's name without block and ending, such as "ffn_down_exps".
        layer: Its block; -1 outside the blocks.
        row: Values of a row.
        values: Values in all.
    """

    kind: str
    layer: int
    row: int
    values: int

    @property
    def of_experts(self) -> bool:
        """It is a part of the experts, of which a token uses some."""
        return self.kind.endswith("_exps")


@dataclass(frozen=True)
class FullAttention:
    """The layers that see the whole context, where they differ from the others (Gemma 4).

    Attributes:
        every: One layer in so many, the last of them.
        n_kv_heads: Heads for keys and values.
        head_length: Values of a head.
        values_are_keys: They have no matrix for the values of their own.
    """

    every: int
    n_kv_heads: int
    head_length: int
    values_are_keys: bool = False


@dataclass(frozen=True)
class DeltaNet:
    """Layers with a state of fixed size in place of attention (gated delta net, Qwen3.5 and 3.6).

    Attributes:
        n_key_heads: Heads for queries and for keys.
        n_value_heads: Heads for values.
        head_length: Values of a head.
        kernel: Tokens that its convolution sees.
        every: One layer in so many, the last of them, has attention.
    """

    n_key_heads: int
    n_value_heads: int
    head_length: int = 128
    kernel: int = 4
    every: int = 4


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that a model's tensors follow from (as in a GGUF header).

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
            the architecture, or from `full`.
        n_ff_shared: Width of the network beside the experts that every token uses.
        full: How the layers without a window differ.
        delta_net: The layers without attention.
        n_shared_kv: Last layers that use the caches of others.
        per_layer: Width of the embeddings that each layer looks up, 0 without (Gemma 4 E4B).
        gated: The feed-forward network has a gate.
        n_positions: Rows of a table of positions, 0 without (BERT).
        classifier: A matrix before the score, in a reranker.
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
    n_ff_shared: int = 0
    full: FullAttention | None = None
    delta_net: DeltaNet | None = None
    n_shared_kv: int = 0
    per_layer: int = 0
    gated: bool = True
    n_positions: int = 0
    classifier: bool = False

    def matrices(self) -> Iterator[Matrix]:
        """Yield every matrix, the blocks in order.

        Norms and biases are left out: together they are less than a thousandth of a model.
        """
        wide = self.n_layers * self.per_layer
        yield Matrix("token_embd", -1, self.n_embd, self.n_embd * self.n_vocab)
        if not self.tied:
            yield Matrix("output", -1, self.n_embd, self.n_embd * self.n_vocab)
        if self.n_positions:
            yield Matrix("position_embd", -1, self.n_embd, self.n_embd * self.n_positions)
        if self.classifier:
            yield Matrix("cls", -1, self.n_embd, self.n_embd**2)
        if wide:
            yield Matrix("per_layer_token_embd", -1, wide, wide * self.n_vocab)
            yield Matrix("per_layer_model_proj", -1, self.n_embd, self.n_embd * wide)
        for layer in range(self.n_layers):
            yield from self._attention(layer)
            yield from self._feed_forward(layer)
            if wide:
                yield self._from_embeddings("inp_gate", layer, self.per_layer)
                yield Matrix("proj", layer, self.per_layer, self.per_layer * self.n_embd)

    @property
    def n_params(self) -> int:
        """Weights, without norms and biases."""
        return sum(matrix.values for matrix in self.matrices())

    def active_share(self) -> float:
        """Share of the weights that one token needs (1.0 where it needs all)."""
        used = self.n_experts_used / max(self.n_experts, 1)
        looked_up = {"per_layer_token_embd": 0.0}  # one row of a large table
        needed = sum(
            matrix.values * (used if matrix.of_experts else looked_up.get(matrix.kind, 1.0))
            for matrix in self.matrices()
        )
        return needed / self.n_params

    def layer_caches(self) -> tuple[LayerCache, ...]:
        """What each layer keeps of a context, for `kv_mib_by_layer`."""
        if self.architecture in WITHOUT_CACHE:
            return (LayerCache(),) * self.n_layers
        pattern = self.full.every if self.full else None
        windows = sliding_windows(self.architecture, self.n_layers, self.sliding_window, pattern)
        caches = []
        for layer, window in enumerate(windows):
            heads, length = self._key_shape(layer)
            if layer >= self.n_layers - self.n_shared_kv:
                caches.append(LayerCache())
            elif (net := self._net(layer)) is not None:
                inner = net.n_value_heads * net.head_length
                state = recurrent_state(inner, net.head_length, net.kernel, net.n_key_heads)
                caches.append(LayerCache(state=state))
            else:
                caches.append(LayerCache(heads * length, heads * length, window))
        return tuple(caches)

    def _attention(self, layer: int) -> Iterator[Matrix]:
        if (net := self._net(layer)) is not None:
            keys, values = (n * net.head_length for n in (net.n_key_heads, net.n_value_heads))
            yield self._from_embeddings("attn_qkv", layer, 2 * keys + values)
            yield self._from_embeddings("attn_gate", layer, values)
            yield Matrix("ssm_conv1d", layer, net.kernel, net.kernel * (2 * keys + values))
            yield self._from_embeddings("ssm_alpha", layer, net.n_value_heads)
            yield self._from_embeddings("ssm_beta", layer, net.n_value_heads)
            yield Matrix("ssm_out", layer, values, values * self.n_embd)
            return
        heads, length = self._key_shape(layer)
        query = self.n_heads * length
        # Where some layers have a state instead, the others have a gate beside their queries.
        yield self._from_embeddings("attn_q", layer, query * (2 if self.delta_net else 1))
        yield self._from_embeddings("attn_k", layer, heads * length)
        if not (self._is_full(layer) and self.full and self.full.values_are_keys):
            yield self._from_embeddings("attn_v", layer, heads * length)
        yield Matrix("attn_output", layer, query, query * self.n_embd)

    def _feed_forward(self, layer: int) -> Iterator[Matrix]:
        dense = self.n_ff_shared if self.n_experts else self.n_ff
        if self.n_experts:
            yield self._from_embeddings("ffn_gate_inp", layer, self.n_experts)
        for count, width, ending in ((1, dense, ""), (self.n_experts, self.n_ff, "_exps")):
            if count * width:
                if self.gated:
                    yield self._from_embeddings(f"ffn_gate{ending}", layer, count * width)
                yield self._from_embeddings(f"ffn_up{ending}", layer, count * width)
                yield Matrix(f"ffn_down{ending}", layer, width, count * width * self.n_embd)

    def _from_embeddings(self, kind: str, layer: int, width: int) -> Matrix:
        return Matrix(kind, layer, self.n_embd, self.n_embd * width)

    def _net(self, layer: int) -> DeltaNet | None:
        net = self.delta_net
        return net if net is not None and (layer + 1) % net.every else None

    def _is_full(self, layer: int) -> bool:
        return self.full is not None and (layer + 1) % self.full.every == 0

    def _key_shape(self, layer: int) -> tuple[int, int]:
        """Heads for keys and values of a layer, and their length."""
        if self.full is not None and self._is_full(layer):
            return self.full.n_kv_heads, self.full.head_length
        return self.n_kv_heads, self.head_length
