"""Tensors whose shapes or types do not fit what the header says of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from helpers.models.formats import TENSOR_TYPES
from helpers.models.header import Header, Tensor
from helpers.models.verdict import Doubt

_AGAIN = "Download or copy the file again."
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


def tensor_problems(header: Header, arch: str, tensors: Sequence[Tensor]) -> Iterator[str]:
    """Yield what is wrong with the tensors of a model whose other values are plausible."""
    layers = int(header[f"{arch}.block_count"])
    by_name = {tensor.name: tensor for tensor in tensors}
    yield from _layer_problems(header, arch, layers, by_name)
    yield from _attention_problems(header, arch, layers, by_name)
    yield from _embedding_problems(header, arch, by_name)
    if arch in _PLAIN:
        yield from _plain_problems(header, arch, layers, by_name)


def type_problems(tensors: Sequence[Tensor]) -> Iterator[str]:
    """Types for which ggml has no operation: it aborts, or calls a null pointer, when it runs."""
    for tensor in tensors:
        name, weight = tensor.name, tensor.name.endswith((".weight", ".bias"))
        if tensor.type_id not in TENSOR_TYPES:
            yield Doubt(f"has a tensor {name!r} of the unknown type {tensor.type_id}")
            return
        if weight and tensor.type in _NOT_FOR_WEIGHTS and not any(word in name for word in _TABLES):
            yield f"is damaged: {name!r} has the type {tensor.type}, not a weight's. {_AGAIN}"
        one_dimensional = tensor.n_elements == tensor.shape[0]
        plain = name.endswith((".ssm_a", ".ssm_d")) or (
            one_dimensional and name.endswith(("_norm.weight", ".bias"))
        )
        if plain and tensor.type != "F32":
            yield f"is damaged: {name!r} is stored as {tensor.type}, not as F32. {_AGAIN}"


def _layer_problems(
    header: Header, arch: str, layers: int, by_name: Mapping[str, Tensor]
) -> Iterator[str]:
    present = set()
    for name in by_name:
        if match := _BLOCK.match(name):
            present.add(int(match[1]))
    if present and max(present) >= layers:
        yield (
            f"has tensors of layer {max(present)}, but says that it has {layers} layers "
            f"({arch}.block_count). {_AGAIN}"
        )
    if arch == "deci" or f"{arch}.num_loops" in header or f"{arch}.hrm.layers_per_stack" in header:
        return  # layers without any tensor, or gone through several times
    wanted = layers - header.get(f"{arch}.nextn_predict_layers", 0)
    lacking = [index for index in range(wanted) if index not in present]
    if present and lacking:
        yield (
            f"says that it has {layers} layers, but has no tensor of layer {lacking[0]} "
            f"({len(lacking)} layers are missing). {_AGAIN}"
        )


def _attention_problems(
    header: Header, arch: str, layers: int, by_name: Mapping[str, Tensor]
) -> Iterator[str]:
    """A layer without its queries: some graphs follow a null pointer (create_tensor_qkv)."""
    uniform = isinstance(header.get(f"{arch}.attention.head_count"), int)
    mixed = any(key.startswith(f"{arch}.{kind}") for key in header for kind in _RECURRENT)
    if not uniform or mixed:
        return
    having = {
        int(match[1]) for name in by_name if (match := _BLOCK.match(name)) and ".attn_q" in name
    }
    lacking = [layer for layer in range(layers) if layer not in having]
    others = {int(match[1]) for name in by_name if (match := _BLOCK.match(name))} - having
    for layer in lacking:
        if having and layer in others:
            yield f"is incomplete: layer {layer} has no tensor for its queries (attn_q). {_AGAIN}"


def _embedding_problems(header: Header, arch: str, by_name: Mapping[str, Tensor]) -> Iterator[str]:
    tensor = by_name.get("token_embd.weight")
    if tensor is None or arch in _OTHER_INPUTS:
        return
    width = int(header[f"{arch}.embedding_length"])
    if tensor.shape[0] != width:
        yield (
            f"says that its embeddings have {width:,} values ({arch}.embedding_length), but "
            f"token_embd.weight has {tensor.shape[0]:,}. {_AGAIN}"
        )
    n_tokens = _vocabulary_size(header, arch)
    if n_tokens and tensor.n_elements != width * n_tokens:
        yield (
            f"has {n_tokens:,} tokens in its vocabulary, but embeddings for "
            f"{tensor.n_elements // width:,} (token_embd.weight). {_AGAIN}"
        )


def _vocabulary_size(header: Header, arch: str) -> int:
    key = "tokenizer.ggml.tokens"
    return header.length(key) if key in header else int(header.get(f"{arch}.vocab_size", 0))


def _plain_problems(
    header: Header, arch: str, layers: int, by_name: Mapping[str, Tensor]
) -> Iterator[str]:
    """Compare with what src/models/ creates for this architecture, layer by layer."""
    width = int(header[f"{arch}.embedding_length"])
    heads = header.per_layer(f"{arch}.attention.head_count", layers)
    kv_key = f"{arch}.attention.head_count_kv"
    kv_heads = header.per_layer(kv_key, layers) if kv_key in header else heads
    feed = header.per_layer(f"{arch}.feed_forward_length", layers)
    if not heads[0]:
        yield f"has no attention heads ({arch}.attention.head_count). {_AGAIN}"
        return
    head = int(header.get(f"{arch}.attention.key_length", width // heads[0]))
    n_tokens = _vocabulary_size(header, arch)
    expected = {"token_embd.weight": (width, n_tokens), "output_norm.weight": (width,)}
    if "output.weight" in by_name:
        expected["output.weight"] = (width, n_tokens)
    for layer in range(layers):
        block = f"blk.{layer}."
        query, key = head * heads[layer], head * kv_heads[layer]
        shapes = {
            "attn_norm": (width,),
            "attn_output": (query, width),
            "ffn_norm": (width,),
        }
        if f"{block}attn_qkv.weight" in by_name:
            shapes["attn_qkv"] = (width, query + 2 * key)
        else:
            shapes |= {"attn_q": (width, query), "attn_k": (width, key), "attn_v": (width, key)}
        if not header.get(f"{arch}.expert_count"):
            shapes |= {"ffn_gate": (width, feed[layer]), "ffn_up": (width, feed[layer])}
            shapes["ffn_down"] = (feed[layer], width)
        expected |= {f"{block}{name}.weight": shape for name, shape in shapes.items()}
    for name, shape in expected.items():
        tensor = by_name.get(name)
        if tensor is None:
            yield f"is incomplete: the tensor {name!r} is missing. {_AGAIN}"
        elif _trimmed(tensor.shape) != _trimmed(shape):
            yield (
                f"is damaged: the tensor {name!r} has the shape {tensor.shape}, but the header's "
                f"numbers of heads and widths ask for {shape}. {_AGAIN}"
            )


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions of one at the end mean nothing."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
