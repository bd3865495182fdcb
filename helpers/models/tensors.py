"""Tensors whose shapes or types do not fit what the header says of the model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set

from helpers.models.formats import TENSOR_TYPES
from helpers.models.header import Header, Tensor
from helpers.models.verdict import Doubt

_BLOCK = re.compile(r"^blk\.(\d+)\.")

# Types that exist in ggml and are no type of a weight: intermediate results, indices.
NOT_FOR_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
# Factors that are multiplied with results (beside rope_freqs, rope_factors_long and _short).
_ALWAYS_F32 = (".ssm_a", ".ssm_d", ".scale", ".input_scale")
# The one table of numbers among the weights (src/models/deepseek4.cpp).
_TABLES = ("tid2eid",)
# Architectures whose input is not (only) a token's embedding of the model's own width.
_OTHER_INPUTS = frozenset({"wavtokenizer-dec", "qwen3tts", "pockettts", "gemma4-assistant"})
# Keys of layers that have no attention.
_RECURRENT = ("ssm.", "wkv.", "shortconv.", "kda.", "full_attention_interval", "nextn_predict")
# Architectures that are a plain row of attention and feed-forward blocks with these tensors.
PLAIN = frozenset({"llama", "qwen2", "qwen3"})


def tensor_problems(header: Header, tensors: Sequence[Tensor]) -> Iterator[str]:
    """Yield what is wrong with the tensors of a model whose other values are plausible."""
    by_name = {tensor.name: tensor for tensor in tensors}
    blocks = defaultdict[int, list[str]](list)
    for name in by_name:
        if match := _BLOCK.match(name):
            blocks[int(match[1])].append(name)
    yield from _layer_problems(header, blocks)
    yield from _attention_problems(header, blocks)
    yield from _embedding_problems(header, by_name)
    if header.architecture in PLAIN:
        yield from _plain_problems(header, by_name)


def type_problems(tensors: Sequence[Tensor]) -> Iterator[str]:
    """Types for which ggml has no operation: it aborts, or calls a null pointer, when it runs."""
    for tensor in tensors:
        name, weight = tensor.name, tensor.name.endswith((".weight", ".bias"))
        if tensor.type_id not in TENSOR_TYPES:
            yield Doubt(f"has a tensor {name!r} of the unknown type {tensor.type_id}")
            return
        if weight and tensor.type in NOT_FOR_WEIGHTS and not any(word in name for word in _TABLES):
            yield f"is damaged: {name!r} has the type {tensor.type}, which no weight has"
        one_dimensional = tensor.n_elements == tensor.shape[0]
        plain = name.endswith(_ALWAYS_F32) or (
            one_dimensional and (name.endswith(("_norm.weight", ".bias")) or "rope_f" in name)
        )
        if plain and tensor.type != "F32":
            yield f"is damaged: {name!r} is stored as {tensor.type}, not as F32"


def _layer_problems(header: Header, blocks: Mapping[int, Sequence[str]]) -> Iterator[str]:
    arch, layers = header.architecture, header.n_layers
    if not blocks:
        return
    if max(blocks) >= layers:
        yield (
            f"has tensors of layer {max(blocks)}, but says that it has {layers} layers "
            f"({arch}.block_count)"
        )
    if arch == "deci" or f"{arch}.num_loops" in header or f"{arch}.hrm.layers_per_stack" in header:
        return  # layers without any tensor, or gone through several times
    wanted = layers - header.count("nextn_predict_layers")
    lacking = [index for index in range(wanted) if index not in blocks]
    if lacking:
        yield (
            f"says that it has {layers} layers, but has no tensor of layer {lacking[0]} "
            f"({len(lacking)} layers are missing)"
        )


def _attention_problems(header: Header, blocks: Mapping[int, Sequence[str]]) -> Iterator[str]:
    """A layer without its queries: some graphs follow a null pointer (create_tensor_qkv)."""
    uniform = isinstance(header.hyper("attention.head_count"), int)
    recurrent = tuple(f"{header.architecture}.{kind}" for kind in _RECURRENT)
    if not uniform or any(key.startswith(recurrent) for key in header):
        return
    having = {layer for layer, names in blocks.items() if any(".attn_q" in n for n in names)}
    for layer in sorted(blocks.keys() - having):
        if having:
            yield f"is incomplete: layer {layer} has no tensor for its queries (attn_q)"


def _embedding_problems(header: Header, by_name: Mapping[str, Tensor]) -> Iterator[str]:
    tensor = by_name.get("token_embd.weight")
    if tensor is None or header.architecture in _OTHER_INPUTS:
        return
    width, n_tokens = header.count("embedding_length"), header.n_vocab
    if tensor.shape[0] != width:
        yield (
            f"says that its embeddings have {width:,} values ({header.architecture}"
            f".embedding_length), but token_embd.weight has {tensor.shape[0]:,}"
        )
    if n_tokens and tensor.n_elements != width * n_tokens:
        yield (
            f"has {n_tokens:,} tokens in its vocabulary, but embeddings for "
            f"{tensor.n_elements // width:,} (token_embd.weight)"
        )


def _plain_problems(header: Header, by_name: Mapping[str, Tensor]) -> Iterator[str]:
    """Compare with what src/models/ creates for this architecture, layer by layer."""
    arch, layers = header.architecture, zip(header.n_heads, header.n_kv_heads, strict=False)
    for heads, kv_heads in layers:
        if not heads:
            yield f"has no attention heads ({arch}.attention.head_count)"
            return
        if not kv_heads or heads % kv_heads:  # GGML_ASSERT(ggml_can_mul_mat(a, b)) in ggml.c
            yield (
                f"has {heads} attention heads and {kv_heads} for keys and values "
                f"({arch}.attention.head_count_kv), of which the first is no multiple"
            )
            return
    needed, possible = plain_shapes(header, set(by_name))
    for name, shape in (needed | possible).items():
        tensor = by_name.get(name)
        if tensor is not None and trimmed(tensor.shape) != trimmed(shape):
            yield (
                f"is damaged: the tensor {name!r} has the shape {tensor.shape}, but the header's "
                f"numbers of heads and widths ask for {shape}"
            )
        elif tensor is None and name in needed:
            yield f"is incomplete: the tensor {name!r} is missing"


_Shapes = dict[str, tuple[int, ...]]


def plain_shapes(header: Header, names: Set[str]) -> tuple[_Shapes, _Shapes]:
    """The shapes of the tensors of a model of a `PLAIN` architecture, without its experts.

    Args:
        header: Its header; each layer has attention heads.
        names: The tensors that it has, which decide between some that it may have.

    Returns:
        Those that it must have, and those that it may have, by name.
    """
    width, n_tokens = header.count("embedding_length"), header.n_vocab
    heads, feed = header.n_heads, header.per_layer("feed_forward_length")
    head = header.count("attention.key_length", width // heads[0])
    needed: _Shapes = {"token_embd.weight": (width, n_tokens), "output_norm.weight": (width,)}
    possible: _Shapes = {"output.weight": (width, n_tokens), "rope_freqs.weight": (head // 2,)}
    for layer, kv_heads in enumerate(header.n_kv_heads):
        block = f"blk.{layer}."
        query, key = head * heads[layer], head * kv_heads
        shapes: _Shapes = {
            "attn_norm": (width,), "attn_output": (query, width), "ffn_norm": (width,),
        }  # fmt: skip
        biases = {"attn_q": (query,), "attn_k": (key,), "attn_v": (key,)}
        if f"{block}attn_qkv.weight" in names:
            shapes["attn_qkv"] = (width, query + 2 * key)
        else:
            shapes |= {"attn_q": (width, query), "attn_k": (width, key), "attn_v": (width, key)}
        if header.architecture == "qwen3":
            shapes |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
        if not header.count("expert_count"):
            shapes |= {"ffn_gate": (width, feed[layer]), "ffn_up": (width, feed[layer])}
            shapes["ffn_down"] = (feed[layer], width)
        needed |= {f"{block}{name}.weight": shape for name, shape in shapes.items()}
        possible |= {f"{block}{name}.bias": shape for name, shape in biases.items()}
    return needed, possible


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the dimensions of one at its end, which mean nothing."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
