"""Values that a readable header may hold and a model may not.

llama.cpp checks many of these with `GGML_ASSERT`, which ends the process, and some not at all. Each
rule names its place in the llama.cpp that llama-cpp-python 0.3.36 carries. The tests' fuzzer looks
for headers that pass here and end a child process all the same.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence

from helpers.models._formats import (
    ARCHITECTURES,
    FREE_HEAD_LENGTHS,
    MAX_EXPERTS,
    MAX_LAYERS,
    PRE_TOKENIZERS,
    PROJECTOR_ARCHITECTURES,
    ROPE_SCALING_TYPES,
    WHOLE_HEAD_ROTATED,
)
from helpers.models._header import Header, Tensor

_AGAIN = "Download or copy the file again."
_BLOCK = re.compile(r"^blk\.(\d+)\.")

# The scalar keys that every architecture reads (llama_model_base::load_hparams), with their types.
# (key after "{architecture}.", types, smallest, largest, required)
_U32_MAX = 2**32 - 1
_SCALARS: tuple[tuple[str, str, float, float, bool], ...] = (
    ("block_count", "u32", 1, MAX_LAYERS, True),
    ("context_length", "u32", 1, 2**31 - 1, True),
    ("embedding_length", "u32", 1, 2**24, True),
    ("vocab_size", "u32", 1, 2**24, False),
    ("expert_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_group_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_group_used_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_shared_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_feed_forward_length", "u32", 0, 2**24, False),
    ("attention.key_length", "u32", 1, 2**16, False),
    ("attention.value_length", "u32", 1, 2**16, False),
    ("rope.dimension_count", "u32", 0, 2**16, False),
    ("rope.scaling.type", "str", 0, 0, False),
    ("rope.freq_base", "f32", 0, math.inf, False),
    ("attention.layer_norm_rms_epsilon", "f32", 0, 1, False),
    ("attention.layer_norm_epsilon", "f32", 0, 1, False),
)
# Keys that hold one number for all layers or one for each (get_key_or_arr).
_PER_LAYER = (
    ("attention.head_count", 2**16),
    ("attention.head_count_kv", 2**16),
    ("feed_forward_length", 2**24),
    ("expert_used_count", MAX_EXPERTS),
)
# Keys of `general.` and `tokenizer.` that are read with a fixed type.
_TYPES = {
    "general.name": "str",
    "general.file_type": "u32",
    "tokenizer.ggml.model": "str",
    "tokenizer.ggml.pre": "str",
    "tokenizer.chat_template": "str",
    "tokenizer.ggml.add_bos_token": "bool",
    "tokenizer.ggml.add_eos_token": "bool",
    "tokenizer.ggml.add_space_prefix": "bool",
    "tokenizer.ggml.bos_token_id": "u32",
    "tokenizer.ggml.eos_token_id": "u32",
    "tokenizer.ggml.unknown_token_id": "u32",
    "tokenizer.ggml.padding_token_id": "u32",
    "split.no": "u16",
    "split.count": "u16",
}
_WITH_MERGES = frozenset({"gpt2", "hybriddna", "whitespace", "gemma4"})
_TOKENIZERS = _WITH_MERGES | {"llama", "bert", "t5", "rwkv", "plamo2", "test", "no_vocab", "none"}


def find_implausible(header: Header, tensors: Sequence[Tensor]) -> str | None:
    """Return the first thing that keeps llama.cpp from loading a model, or None.

    Args:
        header: The header of the (first part of the) model.
        tensors: The tensors of all parts.
    """
    return next(_problems(header, tensors), None)


def _problems(header: Header, tensors: Sequence[Tensor]) -> Iterator[str]:
    yield from _architecture(header)
    arch = str(header["general.architecture"])
    yield from _types(header)
    yield from _scalars(header, arch)
    yield from _per_layer(header, arch)
    yield from _experts(header, arch)
    yield from _heads(header, arch)
    if not tensors:
        yield (
            "has no tensors: it is a vocabulary or a header without weights. Download the model "
            "file itself."
        )
    yield from _vocabulary(header)
    yield from _shapes(header, arch, tensors)


def _architecture(header: Header) -> Iterator[str]:
    key = "general.architecture"
    if key not in header or header.type_of(key) != ("str",):
        yield f"does not say what model it is: the key {key!r} is missing. {_AGAIN}"
        return
    arch = str(header[key])
    if arch in PROJECTOR_ARCHITECTURES:
        yield (
            "is the image encoder of a model (a projector, mmproj), not a language model. Load "
            "the .gguf file beside it."
        )
    elif arch not in ARCHITECTURES:
        near = difflib.get_close_matches(arch, sorted(ARCHITECTURES), n=3, cutoff=0.5)
        likeness = f" (it knows {', '.join(near)})" if near else ""
        yield (
            f"has the architecture {arch[:80]!r}, which this llama.cpp does not know{likeness}. "
            "Upgrade llama-cpp-python if the model is newer than it, or choose another model."
        )


def _types(header: Header) -> Iterator[str]:
    for key, kind in _TYPES.items():
        if key in header and header.type_of(key) != (kind,):
            found = " of ".join(header.type_of(key))
            yield f"is damaged: {key!r} is of type {found}, not {kind}. {_AGAIN}"


def _scalars(header: Header, arch: str) -> Iterator[str]:
    for name, kind, smallest, largest, required in _SCALARS:
        key = f"{arch}.{name}"
        if key not in header:
            if required:
                yield f"is incomplete: the key {key!r} is missing. {_AGAIN}"
            continue
        if header.type_of(key) != (kind,):
            found = " of ".join(header.type_of(key))
            yield f"is damaged: {key!r} is of type {found}, not {kind}. {_AGAIN}"
            continue
        value = header[key]
        if kind == "str":
            if value not in ROPE_SCALING_TYPES:
                yield (
                    f"has {key!r} = {value!r}; llama.cpp knows {', '.join(ROPE_SCALING_TYPES)}. "
                    + _AGAIN
                )
        elif not smallest <= value <= largest:
            yield f"has {key!r} = {value:,}, outside {smallest:,} to {largest:,}. {_AGAIN}"


def _per_layer(header: Header, arch: str) -> Iterator[str]:
    layers = header[f"{arch}.block_count"]
    for name, largest in _PER_LAYER:
        key = f"{arch}.{name}"
        if key not in header:
            continue
        kind = header.type_of(key)
        if kind == ("u32",):
            values = [header[key]]
        elif kind in (("array", "u32"), ("array", "i32")) and header.length(key) == layers:
            values = header[key]
        else:
            yield (
                f"is damaged: {key!r} must be one number or {layers} numbers (one for each "
                f"layer). {_AGAIN}"
            )
            return
        if not all(0 <= value <= largest for value in values):
            yield f"has {key!r} with a value outside 0 to {largest:,}. {_AGAIN}"


def numbers(header: Header, key: str, layers: int) -> list[int]:
    """Return a per-layer number as a list, from one number or an array; zeros if it is missing."""
    value = header.get(key, 0)
    return [int(item) for item in value] if isinstance(value, list) else [int(value)] * layers


def _experts(header: Header, arch: str) -> Iterator[str]:
    """The assertions on experts in llama_model_base::load_hparams."""
    count = header.get(f"{arch}.expert_count", 0)
    layers = header[f"{arch}.block_count"]
    used = max(numbers(header, f"{arch}.expert_used_count", layers))
    groups = header.get(f"{arch}.expert_group_count", 0)
    groups_used = header.get(f"{arch}.expert_group_used_count", 0)
    if arch in ("hunyuan_vl", "hunyuan-dense") and count <= 1:
        count, used = 0, 0
    good = used <= count and (not count or (used > 0 and groups < count))
    if groups > 1:
        good = good and count % groups == 0 and 0 < groups_used < groups
    if not good or (not count and groups):
        yield (
            f"has impossible numbers of experts: {count} experts, {used} used, {groups} groups, "
            f"{groups_used} of them used. {_AGAIN}"
        )


def _heads(header: Header, arch: str) -> Iterator[str]:
    layers = header[f"{arch}.block_count"]
    if header.get(f"{arch}.nextn_predict_layers", 0) > layers:
        yield f"has more prediction layers than layers. {_AGAIN}"
    heads = numbers(header, f"{arch}.attention.head_count", layers)[0]
    if not heads:
        return
    default = header[f"{arch}.embedding_length"] // heads
    key = header.get(f"{arch}.attention.key_length", default)
    value = header.get(f"{arch}.attention.value_length", default)
    rotated = header.get(f"{arch}.rope.dimension_count", key)
    if arch not in FREE_HEAD_LENGTHS and key != value:
        yield (
            f"has heads of {key} values for keys and {value} for values, which its architecture "
            f"({arch}) does not allow. {_AGAIN}"
        )
    if arch in WHOLE_HEAD_ROTATED and rotated != key:
        yield (
            f"has {arch + '.rope.dimension_count'!r} = {rotated}, but its heads have {key} "
            f"values. {_AGAIN}"
        )


def _vocabulary(header: Header) -> Iterator[str]:
    model = header.get("tokenizer.ggml.model")
    if model is None:
        yield f"is incomplete: it has no vocabulary ('tokenizer.ggml.model'). {_AGAIN}"
        return
    if model not in _TOKENIZERS:
        yield (
            f"has a tokenizer {model!r} that this llama.cpp does not know. Upgrade "
            "llama-cpp-python if the model is newer than it."
        )
    if model in ("no_vocab", "none"):
        return
    key = "tokenizer.ggml.tokens"
    if key not in header or header.type_of(key) != ("array", "str") or not header.length(key):
        yield f"is incomplete: its vocabulary ({key!r}) is missing or empty. {_AGAIN}"
        return
    n_tokens = header.length(key)
    for name, kinds in (("token_type", ("i32",)), ("scores", ("f32", "i32"))):
        other = f"tokenizer.ggml.{name}"
        if other in header and not (
            header.type_of(other)[0] == "array"
            and header.type_of(other)[1] in kinds
            and header.length(other) >= n_tokens
        ):
            yield f"is damaged: {other!r} does not match the {n_tokens:,} tokens. {_AGAIN}"
    pre = header.get("tokenizer.ggml.pre", "")
    if model in ("gpt2", "hybriddna", "whitespace") and pre and pre not in PRE_TOKENIZERS:
        yield (
            f"has a pre-tokenizer {pre!r} that this llama.cpp does not know. Upgrade "
            "llama-cpp-python if the model is newer than it."
        )
    merges = "tokenizer.ggml.merges"
    if model in _WITH_MERGES and merges not in header:
        if header.get("tokenizer.ggml.pre") != "kimi-k2":
            yield f"is incomplete: its tokenizer needs {merges!r}, which is missing. {_AGAIN}"
    elif merges in header and header.type_of(merges) != ("array", "str"):
        yield f"is damaged: {merges!r} is not an array of strings. {_AGAIN}"
    yield from _tokens(header, key, n_tokens)


def _tokens(header: Header, key: str, n_tokens: int) -> Iterator[str]:
    """Every token must be different (an assertion in llama_vocab::impl::load)."""
    tokens = header.raw_strings(key)
    if b"" in tokens:
        # llama.cpp gives empty tokens a name with their number, which makes them different.
        tokens = [token or b"[EMPTY_%d]" % number for number, token in enumerate(tokens)]
    if len(set(tokens)) < n_tokens:
        twice = _first_repeated(tokens).decode("utf-8", "replace")
        yield f"is damaged: the token {twice!r} stands in its vocabulary twice. {_AGAIN}"


def _first_repeated(tokens: list[bytes]) -> bytes:
    seen: set[bytes] = set()
    for token in tokens:
        if token in seen:
            return token
        seen.add(token)
    return b""


def _shapes(header: Header, arch: str, tensors: Sequence[Tensor]) -> Iterator[str]:
    width = header[f"{arch}.embedding_length"]
    layers = header[f"{arch}.block_count"]
    n_tokens = (
        header.length("tokenizer.ggml.tokens")
        if "tokenizer.ggml.tokens" in header
        else header.get(f"{arch}.vocab_size", 0)
    )
    for tensor in tensors:
        match = _BLOCK.match(tensor.name)
        if match and int(match[1]) >= layers:
            yield (
                f"has a tensor {tensor.name!r}, but says that it has {layers} layers "
                f"({arch}.block_count). {_AGAIN}"
            )
        if tensor.name == "token_embd.weight" and arch != "wavtokenizer-dec":
            if tensor.shape[0] != width:
                yield (
                    f"says that its embeddings have {width:,} values ({arch}.embedding_length), "
                    f"but token_embd.weight has {tensor.shape[0]:,}. {_AGAIN}"
                )
            if n_tokens and tensor.n_elements != width * n_tokens:
                yield (
                    f"has {n_tokens:,} tokens in its vocabulary, but embeddings for "
                    f"{tensor.n_elements // width:,} (token_embd.weight). {_AGAIN}"
                )
    present = {int(match[1]) for match in map(_BLOCK.match, (t.name for t in tensors)) if match}
    wanted = layers - header.get(f"{arch}.nextn_predict_layers", 0)
    lacking = [index for index in range(wanted) if index not in present]
    if present and lacking:
        yield (
            f"says that it has {layers} layers, but no tensor of layer {lacking[0]} "
            f"({len(lacking)} layers are missing). {_AGAIN}"
        )
