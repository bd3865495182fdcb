"""Does a LoRA adapter fit a model? Asked before llama.cpp multiplies with it.

llama.cpp compares two dimensions of each pair (src/llama-adapter.cpp) and takes types and the rest
as they come; what ggml cannot multiply ends the process at the first text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.errors import ModelFileError
from helpers.models.check import checked_layout
from helpers.models.header import Header, Tensor
from helpers.models.tensors import NOT_FOR_WEIGHTS

_PARTS = (".lora_a", ".lora_b")
_INPUT = "token_embd.weight"
# Keys that are read with a fixed type (any other is an assertion in gguf.cpp), and if they must be.
_KEYS = (
    ("general.type", ("str",), "adapter"),
    ("adapter.type", ("str",), "lora"),
    ("adapter.lora.alpha", ("f32",), None),
)


def check_lora_file(path: str | os.PathLike[str], model: Sequence[Header]) -> None:
    """Check that a file is a LoRA adapter which llama.cpp can use with a model.

    Reads the headers only.

    Args:
        path: The adapter, in GGUF form.
        model: The headers of the model's parts, as `check_overrides` returns them.

    Raises:
        ModelFileError: There is no such file, or what is wrong with it.
    """
    file = Path(path).expanduser().absolute()
    if not file.exists():
        raise ModelFileError(
            f"There is no LoRA adapter at {path}. "
            "Give the path of a GGUF adapter made for this model."
        )
    try:
        adapter = checked_layout(file)
    except ModelFileError as error:
        raise ModelFileError(f"The LoRA adapter {error}") from None
    for problem in _problems(adapter, model):
        raise ModelFileError(
            f"The LoRA adapter {file} cannot be used with this model: {problem}. "
            "It must be a GGUF made from the same base model (convert_lora_to_gguf.py)."
        )


def _problems(adapter: Header, model: Sequence[Header]) -> Iterator[str]:
    for key, kind, wanted in _KEYS:
        if key not in adapter and wanted is None:
            continue
        found = adapter.get(key)
        if key not in adapter or adapter.type_of(key) != kind or wanted not in (None, found):
            of = f" ({' of '.join(adapter.type_of(key))})" if key in adapter else ""
            yield f"its {key} is {found!r}{of}, not {wanted or 'a number (f32)'!r}"
    if not math.isfinite(alpha := adapter.get("adapter.lora.alpha", 0.0)):
        yield f"its adapter.lora.alpha is {alpha}"
    arch = model[0].architecture
    if adapter.architecture != arch or adapter.type_of("general.architecture") != ("str",):
        yield f"it was made for the architecture {adapter.architecture[:80]!r}, not {arch!r}"
    if "adapter.alora.invocation_tokens" in adapter:
        yield (
            "it is an activated LoRA (aLoRA), which works only from certain tokens of a text on; "
            "helpers applies an adapter to the whole text"
        )
    yield from _pair_problems(adapter, model)


def _pair_problems(adapter: Header, model: Sequence[Header]) -> Iterator[str]:
    base = {tensor.name: tensor for header in model for tensor in header.tensors}
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in adapter.tensors:
        name, part = tensor.name[:-7], tensor.name[-7:]
        if part in _PARTS:
            if name.endswith(_PARTS) or part in pairs.setdefault(name, {}):
                yield f"its tensor {tensor.name!r} is one too many"
            pairs[name][part] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # which llama.cpp passes over
            yield f"its tensor {tensor.name!r} is neither *.lora_a nor *.lora_b"
    if not pairs:
        yield "it has no tensors"
    for name, pair in pairs.items():
        for part in _PARTS:
            if part not in pair:
                yield f"its tensor '{name}{part}' is missing"
                return
            if (kind := pair[part].type) in NOT_FOR_WEIGHTS:
                yield f"its tensor '{name}{part}' has the type {kind}, which no weight has"
        if name not in base:
            yield f"it changes {name!r}, which the model does not have"
            return
        first, second = (_four(pair[part].shape) for part in _PARTS)
        if not _fit(name, first, second, _four(base[name].shape)):
            yield (
                f"its tensors for {name!r} have the shapes {pair['.lora_a'].shape} and "
                f"{pair['.lora_b'].shape}, which do not fit the model's {base[name].shape}"
            )
        if name == _INPUT and "output.weight" not in base:
            yield (
                f"it changes {name!r}, which this model uses as its output layer too: llama.cpp "
                "cannot apply it there"
            )


def _fit(name: str, first: list[int], second: list[int], base: list[int]) -> bool:
    rank, more = second[0], base[2:]
    if name.endswith(_INPUT):  # A is looked up by token (llm_graph_context::build_inp_embd)
        fitting = first == [rank, base[1], *more] and second == [rank, base[0], *more]
    else:
        fitting = first == [base[0], rank, *more] and second == [rank, base[1], *more]
    return fitting


def _four(shape: tuple[int, ...]) -> list[int]:
    return [*shape, 1, 1, 1][:4]
