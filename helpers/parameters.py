"""Which names a `LlamaCpp` knows: fields, today's `Llama` arguments, and yesterday's names.

An unknown name is never swallowed: a typo in `temprature` would otherwise go unnoticed.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from helpers.load_options import LoadOptions
from helpers.warn import warn_caller

DEAD_FIELDS = {
    "f16_kv": 'the KV cache is f16 by default; choose with type_k="f16" and type_v="f16"',
    "n_parts": "the parts of a split model are found by themselves; drop it",
    "logits_all": "logprobs=… works without it; drop it",
    "lora_base": "an adapter is applied to the loaded model; use lora_path alone",
    "callback_manager": "use callbacks=[…]",
    "client": "the model is loaded by LlamaCpp itself; drop it",
}
"""Fields of the archived class that mean nothing any more, with what to use instead."""

DEAD_ARGUMENTS = {
    **{name: DEAD_FIELDS[name] for name in ("f16_kv", "n_parts", "lora_base")},
    "n_gqa": "the model file says how many heads share their keys; drop it",
    "rms_norm_eps": "the model file has it; drop it",
    "low_vram": "offload_kqv=False keeps the KV cache on the CPU",
    "mul_mat_q": "llama.cpp chooses the kernels; drop it",
}
"""Arguments that `llama_cpp.Llama` once had, given in `model_kwargs`, with what to use instead."""

_REFUSED = {
    "embedding": "embeddings are another model's job (LlamaCppEmbeddings)",
    "logits_all": "logprobs=… works without it",
    "chat_format": "format the prompt with helpers.format_prompt, which uses the file's template",
    "chat_handler": "format the prompt with helpers.format_prompt, which uses the file's template",
    "draft_model": "the engine has no draft models",
    "tokenizer": "the engine uses the vocabulary in the file",
    "spm_infill": "the engine has no infill mode",
    "numa": "start Python under numactl instead",
}


def reject_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise for the first name that is not known.

    Raises:
        TypeError: The message names the nearest known one.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(known)}."
            raise TypeError(f"{what} has no parameter {name!r}. {hint}")


def load_settings(model_kwargs: Mapping[str, Any], fields: Iterable[str] = ()) -> dict[str, Any]:
    """Fields of `LoadOptions` from `model_kwargs`, whose names are those of `llama_cpp.Llama`.

    An argument that `Llama` once had has no effect, and a `DeprecationWarning` says so.

    Args:
        model_kwargs: What the user gave; None is an argument's default.
        fields: Names that are fields of `LlamaCpp` and must be given as such.

    Raises:
        TypeError: An unknown name.
        ValueError: An argument that this engine cannot serve, or that is a field of its own.
    """
    known = {f.name for f in dataclasses.fields(LoadOptions)}
    fields = set(fields)
    reject_unknown(model_kwargs, known | fields | {*_REFUSED, *DEAD_ARGUMENTS}, "model_kwargs")
    for name, value in model_kwargs.items():
        if name in DEAD_ARGUMENTS:
            warn_dead("model_kwargs", name, DEAD_ARGUMENTS[name])
        elif value is None:
            continue
        elif name in _REFUSED:
            raise ValueError(f"model_kwargs: {name!r} cannot be used: {_REFUSED[name]}.")
        elif name in fields:
            raise ValueError(f"model_kwargs: give {name}={value!r} as a parameter of its own.")
    return {
        name: value
        for name, value in model_kwargs.items()
        if name not in DEAD_ARGUMENTS and value is not None
    }


def warn_dead(what: str, name: str, successor: str) -> None:
    """Say that a name has no effect any more, and what has."""
    warn_caller(f"{what}: {name!r} has no effect any more: {successor}.", DeprecationWarning)
