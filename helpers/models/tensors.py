"""Tensors whose shapes or types do not fit what the header says of the model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from helpers.models.formats import TENSOR_TYPES
from helpers.models.header import Header, Tensor
from helpers.models.verdict import Doubt

_BLOCK = re.compile(r"^blk\.(\d+)\.")

# Types that exist in ggml and are no type of a weight: intermediate results, indices.
_NOT_FOR_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
# The one table of numbers among the weights (src/models/deepseek4.cpp).
_TABLES = ("tid2eid",)
# Architectures whose input is not (only) a token's embedding of the model's own width.
_OTHER_INPUTS = frozenset({"wavtokenizer-dec", "qwen3tts", "pockettts", "gemma4-assistant"})
# Keys of layers that have no attention.
_RECURRENT = ("ssm.", "wkv.", "shortconv.", "kda.", "full_attention_interval", "nextn_predict")
# Architectures that are a plain row of attention and feed-forward blocks with these tensors.
_PLAIN = frozenset({"llama", "qwen2", "qwen3"})


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
    if header.architecture in _PLAIN:
        yield from _plain_problems(header, by_name)


def type_problems(tensors: Sequence[Tensor]) -> Iterator[str]:
    """Types for which ggml has no operation: it aborts, or calls a null pointer, when it runs."""
    for tensor in tensors:
        name, weight = tensor.name, tensor.name.endswith((".weight", ".bias"))
        if tensor.type_id not in TENSOR_TYPES:
            yield Doubt(f"has a tensor {name!r} of the unknown type {tensor.type_id}")
            return
        if weight and tensor.type in _NOT_FOR_WEIGHTS and not any(word in name for word in _TABLES):
            yield f"is damaged: {name!r} has the type {tensor.type}, which no weight has"
        one_dimensional = tensor.n_elements == tensor.shape[0]
        plain = name.endswith((".ssm_a", ".ssm_d")) or (
            one_dimensional and name.endswith(("_norm.weight", ".bias"))
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
    wanted = layers - header.hyper("nextn_predict_layers")
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
    width, n_tokens = int(header.hyper("embedding_length")), header.n_vocab
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
    width, n_tokens = int(header.hyper("embedding_length")), header.n_vocab
    heads, feed = header.n_heads, header.per_layer("feed_forward_length")
    if not heads[0]:
        yield f"has no attention heads ({header.architecture}.attention.head_count)"
        return
    head = int(header.hyper("attention.key_length", width // heads[0]))
    expected = {"token_embd.weight": (width, n_tokens), "output_norm.weight": (width,)}
    if "output.weight" in by_name:
        expected["output.weight"] = (width, n_tokens)
    for layer, kv_heads in enumerate(header.n_kv_heads):
        block = f"blk.{layer}."
        query, key = head * heads[layer], head * kv_heads
        shapes = {"attn_norm": (width,), "attn_output": (query, width), "ffn_norm": (width,)}
        if f"{block}attn_qkv.weight" in by_name:
            shapes["attn_qkv"] = (width, query + 2 * key)
        else:
            shapes |= {"attn_q": (width, query), "attn_k": (width, key), "attn_v": (width, key)}
        if not header.hyper("expert_count"):
            shapes |= {"ffn_gate": (width, feed[layer]), "ffn_up": (width, feed[layer])}
            shapes["ffn_down"] = (feed[layer], width)
        expected |= {f"{block}{name}.weight": shape for name, shape in shapes.items()}
    for name, shape in expected.items():
        tensor = by_name.get(name)
        if tensor is None:
            yield f"is incomplete: the tensor {name!r} is missing"
        elif _trimmed(tensor.shape) != _trimmed(shape):
            yield (
                f"is damaged: the tensor {name!r} has the shape {tensor.shape}, but the header's "
                f"numbers of heads and widths ask for {shape}"
            )


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions of one at the end mean nothing."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
