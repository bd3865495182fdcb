"""Values that a readable header may hold and a model may not.

llama.cpp checks many of these with `GGML_ASSERT`, which ends the process, and some not at all. Each
rule names its place in the llama.cpp that llama-cpp-python 0.3.36 carries. The tests' fuzzer looks
for headers that pass here and end a child process all the same.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence

from helpers.models.cursor import shorten
from helpers.models.formats import (
    ARCHITECTURES,
    MAX_EXPERTS,
    MAX_LAYERS,
    MIXTURES,
    PARTLY_ROTATED,
    ROPE_SCALING_TYPES,
    SECTIONED,
)
from helpers.models.header import Header, Tensor
from helpers.models.tensors import tensor_problems, type_problems
from helpers.models.verdict import Doubt
from helpers.models.vocabulary import vocabulary_problems

# More layers or experts than this no llama.cpp will ever take.
_ABSURD = 2**16
# The scalar keys that every architecture reads (llama_model_base::load_hparams), with their types.
# (key after "{architecture}.", types, smallest, largest, required)
_SCALARS: tuple[tuple[str, str, float, float, bool], ...] = (
    ("block_count", "u32", 1, MAX_LAYERS, True),
    ("context_length", "u32", 1, 2**31 - 1, True),
    ("embedding_length", "u32", 1, 2**24, True),
    ("vocab_size", "u32", 1, 2**24, False),
    ("expert_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_group_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_group_used_count", "u32", 0, MAX_EXPERTS, False),
    ("expert_shared_count", "u32", 0, MAX_EXPERTS, False),
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
    ("expert_feed_forward_length", 2**24),
    ("expert_used_count", MAX_EXPERTS),
)
_WINDOWED = ("rope.dimension_count", "attention.key_length", "attention.value_length")
# Keys of `general.` and `tokenizer.` that are read with a fixed type.
_TYPES = {
    "str": "general.name tokenizer.ggml.model tokenizer.ggml.pre tokenizer.chat_template",
    "bool": "tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token "
    "tokenizer.ggml.add_space_prefix",
    "u32": "general.file_type tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id "
    "tokenizer.ggml.unknown_token_id tokenizer.ggml.padding_token_id",
    "u16": "split.no split.count",
}


def find_implausible(header: Header, tensors: Sequence[Tensor]) -> str | None:
    """Return what keeps llama.cpp from loading a model, or None; a `Doubt` if nothing is proved.

    A problem that ends without a full stop needs the usual remedy: to get the file again.

    Args:
        header: The header of the (first part of the) model.
        tensors: The tensors of all parts.
    """
    doubts: list[str] = []
    for problem in _problems(header, tensors):
        if not isinstance(problem, Doubt):
            return "; besides, it ".join([*doubts, problem])
        doubts.append(problem)
    return Doubt("; besides, it ".join(doubts)) if doubts else None


def _problems(header: Header, tensors: Sequence[Tensor]) -> Iterator[str]:
    yield from _architecture(header)
    yield from _types(header)
    yield from _scalars(header)
    yield from _per_layer(header)
    yield from _experts(header)
    yield from _sections(header)
    if not tensors:
        yield (
            "has no tensors: it is a vocabulary or a header without weights. Download the model "
            "file itself."
        )
    yield from vocabulary_problems(header)
    yield from type_problems(tensors)
    if header.architecture in ARCHITECTURES:
        yield from tensor_problems(header, tensors)
    yield from _heads(header)


def _architecture(header: Header) -> Iterator[str]:
    key, arch = "general.architecture", header.architecture
    if key not in header or header.type_of(key) != ("str",):
        yield f"does not say what model it is: the key {key!r} is missing"
    elif arch == "clip":
        yield (
            "is the image encoder of a model (a projector, mmproj), not a language model. Load "
            "the .gguf file beside it."
        )
    elif arch not in ARCHITECTURES:
        near = difflib.get_close_matches(arch, sorted(ARCHITECTURES), n=3, cutoff=0.5)
        likeness = f" (it knows {', '.join(near)})" if near else ""
        yield Doubt(f"has the architecture {arch[:80]!r}, which helpers does not know{likeness}")


def _types(header: Header) -> Iterator[str]:
    for kind, keys in _TYPES.items():
        for key in keys.split():
            yield from _wrong_type(header, key, kind)


def _wrong_type(header: Header, key: str, kind: str) -> Iterator[str]:
    if key in header and header.type_of(key) != (kind,):
        yield f"is damaged: {key!r} is of type {' of '.join(header.type_of(key))}, not {kind}"


def _scalars(header: Header) -> Iterator[str]:
    for name, kind, smallest, largest, required in _SCALARS:
        key = f"{header.architecture}.{name}"
        if key not in header:
            if required:
                yield f"is incomplete: the key {key!r} is missing"
            continue
        yield from _wrong_type(header, key, kind)
        value = header[key]
        if kind == "str":
            if value not in ROPE_SCALING_TYPES:
                known = ", ".join(ROPE_SCALING_TYPES)
                yield Doubt(
                    f"has {key!r} = {value!r}, which helpers does not know (it knows {known})"
                )
        else:
            yield from _range(key, [value], smallest, largest)


def _range(key: str, values: Sequence[float], smallest: float, largest: float) -> Iterator[str]:
    for value in values:
        if not smallest <= value <= largest:
            problem = f"has {key!r} = {value:,}, outside {smallest:,} to {largest:,}"
            # These two limits have grown from version to version.
            grows = largest in (MAX_LAYERS, MAX_EXPERTS) and smallest <= value <= _ABSURD
            yield Doubt(problem) if grows else f"{problem}"
            return


def _per_layer(header: Header) -> Iterator[str]:
    layers = header.n_layers
    # Layers that predict further tokens may be left out of an array.
    lengths = (layers, layers - header.count("nextn_predict_layers"))
    for name, largest in _PER_LAYER:
        key = f"{header.architecture}.{name}"
        if key not in header:
            continue
        kind = header.type_of(key)
        if kind == ("u32",):
            values = [header[key]]
        elif kind in (("array", "u32"), ("array", "i32")) and header.length(key) in lengths:
            values = header[key]
        else:
            yield (
                f"is damaged: {key!r} must be one number or {layers} numbers (one for each layer)"
            )
            return
        yield from _range(key, values, 0, largest)


def _experts(header: Header) -> Iterator[str]:
    """The assertions on experts in llama_model_base::load_hparams."""
    count = header.count("expert_count")
    used = max(header.per_layer("expert_used_count"))
    groups = header.count("expert_group_count")
    groups_used = header.count("expert_group_used_count")
    if header.architecture in ("hunyuan_vl", "hunyuan-dense") and count <= 1:
        count, used = 0, 0
    good = used <= count and (not count or (used > 0 and groups < count))
    if groups > 1:
        good = good and count % groups == 0 and 0 < groups_used < groups
    if not count and header.architecture in MIXTURES:
        yield Doubt(f"has no experts ({header.architecture}.expert_count), as such a model has")
    if not good or (not count and groups):
        yield (
            f"has impossible numbers of experts: {count} experts, {used} used, {groups} groups, "
            f"{groups_used} of them used"
        )


def _sections(header: Header) -> Iterator[str]:
    """What multi-axis positions are divided into: an assertion of ggml_compute_forward_rope."""
    key = f"{header.architecture}.rope.dimension_sections"
    if header.architecture in SECTIONED:
        sections = header.get(key)
        first = sections[:3] if isinstance(sections, list) else ()
        if not any(isinstance(size, int) and size > 0 for size in first):
            yield f"is incomplete: {key!r} is {shorten(repr(sections), 80)}"


def _heads(header: Header) -> Iterator[str]:
    arch, hyper = header.architecture, header.count
    if header.count("nextn_predict_layers") > header.n_layers:
        yield "has more prediction layers than layers"
    heads = header.n_heads[0]
    if not heads:
        return
    default = hyper("embedding_length") // heads
    key = hyper("attention.key_length", default)
    value = hyper("attention.value_length", default)
    rotated = hyper("rope.dimension_count", key)
    # GGML_ASSERT in ggml_compute_forward_rope (ggml-cpu/ops.cpp), and an endless loop for zero.
    windowed = hyper("rope.dimension_count_swa", rotated)
    windowed_key = hyper("attention.key_length_swa", key)
    for number, length in ((rotated, key), (windowed, windowed_key)):
        if number % 2 or number > length or (not number and arch in PARTLY_ROTATED):
            yield (
                f"rotates {number} of each head's {length} values ({arch}.rope.dimension_count); "
                f"it must be an even number from 2 to {length}"
            )
    if key != value:
        yield Doubt(
            f"has heads of {key} values for keys and {value} for values, which not every "
            "architecture allows"
        )
    # Windowed layers may have numbers of their own, and then these are not compared.
    own = any(f"{arch}.{name}_swa" in header for name in _WINDOWED)
    if arch not in PARTLY_ROTATED and rotated != key and not own:
        yield Doubt(f"has '{arch}.rope.dimension_count' = {rotated}, but its heads have {key}")
