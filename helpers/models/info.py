"""What a GGUF file says about its model, as one object to read, print and calculate with."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.models.check import checked_header
from helpers.models.formats import FILE_TYPES
from helpers.models.header import Header, Tensor, read_header
from helpers.tables import FactSheet

_LAYER = re.compile(r"^(?:enc\.|dec\.)?blk\.(\d+)\.")
# Tensors of the input layer, which llama.cpp always keeps on the CPU, and of the output layer,
# which counts as one more layer to offload (src/llama-arch.cpp, LLM_TENSOR_INFOS).
INPUT_TENSORS = ("token_embd", "position_embd", "token_types", "per_layer_token_embd", "altup_")
_OUTPUT = ("output", "cls", "dec.output", "enc.output")
_GUESSED = 1024
_MIB = 2**20


@dataclass(frozen=True)
class ModelInfo(FactSheet):
    """What `inspect_model` found in a model file.

    Every number comes from the file's own header. Sizes are in bytes.

    Attributes:
        path: The file (the first part, if the model is split).
        file_size: Bytes of all parts.
        n_parts: Files that the model consists of.
        architecture: Such as "llama", as llama.cpp calls it.
        name: The model's own name, or the file's.
        n_params: Number of weights.
        n_layers: Transformer blocks. llama.cpp counts one more layer to offload: the output.
        n_heads: Attention heads by layer (0 in layers without attention).
        n_kv_heads: Heads for keys and values by layer; fewer than `n_heads` means grouped queries.
        key_length: Values of a key's head.
        value_length: Values of a value's head.
        n_embd: Width of the embeddings.
        n_ff: Width of the feed-forward network by layer.
        n_vocab: Tokens in the vocabulary.
        n_ctx_train: Tokens of context that the model was trained for.
        quantization: The recipe, such as "Q4_K_M"; a recipe mixes tensor types.
        tensor_types: Number of tensors by type, most frequent first.
        bits_per_weight: Bytes of all tensors x 8 / weights: what the recipe really costs.
        chat_template: Jinja source of the model's chat template, or None.
        rope_freq_base: Base frequency of the rotary positions, or None.
        rope: All `rope.` keys of the file.
        sliding_window: Tokens that a windowed layer sees, or None.
        sliding_window_pattern: Which layers are windowed, as the file says: a number (every n-th
            layer sees everything), one truth value by layer, or None (the architecture decides).
        n_experts: Experts by layer; 0 if it is not a mixture of experts.
        n_experts_used: Experts used for each token.
        recurrent: All keys of recurrent layers (`ssm.`, `wkv.`, `shortconv.`, `kda.`).
        licence: As the file says ("apache-2.0"), or None.
        languages: As the file says, such as ("en", "ko").
        layer_bytes: Bytes of each layer's tensors.
        embedding_bytes: Bytes of the input layer (always on the CPU).
        output_bytes: Bytes of the output layer.
        other_bytes: Bytes of tensors that belong to neither.
        tied_output: The output layer reuses the embeddings: when it is offloaded, they are copied.
        tensors: Every tensor: name, shape, type, offset, bytes.
        metadata: All keys and values. Long arrays are read from the file when asked for.
    """

    path: Path
    file_size: int
    n_parts: int
    architecture: str
    name: str
    n_params: int
    n_layers: int
    n_heads: tuple[int, ...]
    n_kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    n_embd: int
    n_ff: tuple[int, ...]
    n_vocab: int
    n_ctx_train: int
    quantization: str
    tensor_types: Mapping[str, int]
    bits_per_weight: float
    chat_template: str | None
    rope_freq_base: float | None
    rope: Mapping[str, Any]
    sliding_window: int | None
    sliding_window_pattern: int | tuple[bool, ...] | None
    n_experts: int
    n_experts_used: int
    recurrent: Mapping[str, Any]
    licence: str | None
    languages: tuple[str, ...]
    layer_bytes: tuple[int, ...]
    embedding_bytes: int
    output_bytes: int
    other_bytes: int
    tied_output: bool
    tensors: tuple[Tensor, ...] = field(repr=False)
    metadata: Header = field(repr=False, compare=False)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors: the file without its header and padding."""
        return sum(self.layer_bytes) + self.embedding_bytes + self.output_bytes + self.other_bytes

    def rows(self) -> list[tuple[str, str]]:
        """Return what `str()` and the notebook show, as (label, text)."""
        rows = [
            ("model", self.name),
            ("file", f"{self.path.name} ({self.file_size / _MIB:,.1f} MiB{self._parts()})"),
            ("architecture", self.architecture),
            ("parameters", f"{self.n_params / 1e6:,.1f} million"),
            ("layers", f"{self.n_layers} (+ 1 output layer to offload)"),
            ("heads", f"{_span(self.n_heads)}, for keys and values {_span(self.n_kv_heads)}"),
            ("head length", f"{self.key_length} (key), {self.value_length} (value)"),
            ("embedding", f"{self.n_embd:,} wide, feed-forward {_span(self.n_ff)}"),
            ("vocabulary", f"{self.n_vocab:,} tokens"),
            ("context", f"{self.n_ctx_train:,} tokens in training"),
            ("quantization", f"{self.quantization}, {self.bits_per_weight:.2f} bits per weight"),
            ("tensors", ", ".join(f"{n} x {kind}" for kind, n in self.tensor_types.items())),
        ]
        if self.rope_freq_base is not None:
            rows.append(("rope base", f"{self.rope_freq_base:,.0f}"))
        if self.sliding_window:
            rows.append(("sliding window", f"{self.sliding_window:,} tokens"))
        if self.n_experts:
            rows.append(("experts", f"{self.n_experts}, {self.n_experts_used} used for a token"))
        if self.recurrent:
            rows.append(
                ("recurrent layers", ", ".join(f"{k} {v}" for k, v in self.recurrent.items()))
            )
        rows += [
            ("chat template", "yes" if self.chat_template else "none"),
            ("licence", self.licence or "not stated"),
            ("languages", ", ".join(self.languages) or "not stated"),
        ]
        return rows

    def _parts(self) -> str:
        return f" in {self.n_parts} parts" if self.n_parts > 1 else ""


def _span(values: tuple[int, ...]) -> str:
    """One number for all layers, or the range that they span."""
    if not values:
        return "0"
    low, high = min(values), max(values)
    return f"{high:,}" if low == high else f"{low:,} to {high:,} by layer"


def inspect_model(path: str | os.PathLike[str], *, check: bool = True) -> ModelInfo:
    """Read what a model file says about its model, without loading it.

    Takes about 0.1 s for the embedded model (0.02 s without the check), and no more for a file of
    40 GB: only the header is read. The result of the check is kept, so that a second call for the
    same unchanged file costs a millisecond.

    Args:
        path: A GGUF file; the first part, if the model is split. `~` is expanded.
        check: Make sure first that llama.cpp can load the file (`check_model_file`). False also
            shows a truncated file or one of an unknown architecture, as long as its header reads.

    Returns:
        A `ModelInfo`: print it, or show it in a notebook.

    Raises:
        ModelFileError: The file is no model that llama.cpp can load, with cause and remedy.

    Example:
        >>> from helpers import default_model, inspect_model
        >>> inspect_model(default_model()).n_layers
        30
    """
    if check:
        return _describe(checked_header(path))
    return _describe((read_header(Path(path).expanduser().absolute()),))


def _describe(headers: tuple[Header, ...]) -> ModelInfo:
    header = headers[0]
    tensors = tuple(tensor for part in headers for tensor in part.tensors)
    arch, hyper, layers = header.architecture, header.hyper, header.n_layers
    most_heads = max(header.n_heads, default=0)
    head_length = header.count("embedding_length") // most_heads if most_heads else 0
    sizes = _sizes(tensors, layers)
    n_params = sum(tensor.n_elements for tensor in tensors)
    languages = header.get("general.languages")
    pattern = hyper("attention.sliding_window_pattern", None)
    return ModelInfo(
        path=header.path,
        file_size=sum(part.file_size for part in headers),
        n_parts=len(headers),
        architecture=arch,
        name=str(header.get("general.name") or header.path.stem),
        n_params=n_params,
        n_layers=layers,
        n_heads=tuple(header.n_heads),
        n_kv_heads=tuple(header.n_kv_heads),
        key_length=header.count("attention.key_length", head_length),
        value_length=header.count("attention.value_length", head_length),
        n_embd=header.count("embedding_length"),
        n_ff=tuple(header.per_layer("feed_forward_length")),
        n_vocab=header.n_vocab,
        n_ctx_train=header.count("context_length"),
        quantization=_recipe(header, tensors),
        tensor_types=dict(Counter(tensor.type for tensor in tensors).most_common()),
        bits_per_weight=8 * sum(t.n_bytes for t in tensors) / n_params if n_params else 0.0,
        chat_template=_text(header, "tokenizer.chat_template"),
        rope_freq_base=_number(header, "rope.freq_base"),
        rope=_below(header, f"{arch}.rope."),
        sliding_window=header.count_or_none("attention.sliding_window") or None,
        sliding_window_pattern=tuple(map(bool, pattern))
        if isinstance(pattern, list)
        else header.count_or_none("attention.sliding_window_pattern"),
        n_experts=header.count("expert_count"),
        n_experts_used=max(header.per_layer("expert_used_count"), default=0),
        recurrent={
            name: value
            for kind in ("ssm.", "wkv.", "shortconv.", "kda.")
            for name, value in _below(header, f"{arch}.{kind}", keep=kind).items()
        },
        licence=_text(header, "general.license"),
        languages=tuple(map(str, languages)) if isinstance(languages, list) else (),
        layer_bytes=tuple(sizes[layer] for layer in range(layers)),
        embedding_bytes=sizes["embedding"],
        output_bytes=sizes["output"],
        other_bytes=sizes["other"],
        tied_output=not any(tensor.name == "output.weight" for tensor in tensors),
        tensors=tensors,
        metadata=header,
    )


def _sizes(tensors: tuple[Tensor, ...], layers: int) -> Counter[int | str]:
    """Bytes by layer, and of what belongs to none."""
    sizes: Counter[int | str] = Counter()
    for tensor in tensors:
        match = _LAYER.match(tensor.name)
        place: int | str = "other"
        if match and int(match[1]) < layers:
            place = int(match[1])
        elif tensor.name.startswith(INPUT_TENSORS):
            place = "embedding"
        elif tensor.name.startswith(_OUTPUT):
            place = "output"
        sizes[place] += tensor.n_bytes
    return sizes


def _recipe(header: Header, tensors: tuple[Tensor, ...]) -> str:
    """The quantizer's recipe by its number, else the type that most bytes are stored in."""
    number = header.get("general.file_type")
    if isinstance(number, int) and number & ~_GUESSED in FILE_TYPES:
        return FILE_TYPES[number & ~_GUESSED]
    n_bytes: Counter[str] = Counter()
    for tensor in tensors:
        n_bytes[tensor.type] += tensor.n_bytes
    return n_bytes.most_common(1)[0][0] if n_bytes else "unknown"


def _text(header: Header, key: str) -> str | None:
    value = header.get(key)
    return value if isinstance(value, str) else None


def _number(header: Header, name: str) -> float | None:
    value = header.hyper(name, None)
    return float(value) if isinstance(value, int | float) else None


def _below(header: Header, prefix: str, keep: str = "") -> dict[str, Any]:
    return {keep + key[len(prefix) :]: header[key] for key in header if key.startswith(prefix)}
