"""Which names a `LlamaCpp` knows: fields, today's `Llama` arguments, and yesterday's names.

An unknown name is never swallowed: a typo in `temprature` would otherwise go unnoticed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

DEAD_FIELDS = {
    "f16_kv": 'the KV cache is f16 by default; choose with type_k="f16" and type_v="f16"',
    "n_parts": "the parts of a split model are found by themselves; drop it",
    "logits_all": "logprobs=… works without it; drop it",
    "lora_base": "an adapter is applied to the loaded model; use lora_path alone",
    "callback_manager": "use callbacks=[…]",
    "client": "the model is loaded by LlamaCpp itself; drop it",
}
"""Fields of the archived class that mean nothing any more, with what to use instead."""

_MODEL_ARGUMENTS = {
    "split_mode": (0, 3),
    "main_gpu": (0, 1023),
    "tensor_split": None,
    "kv_overrides": None,
    "check_tensors": None,
}
_CONTEXT_ARGUMENTS = {
    "rope_scaling_type": (-1, 3),
    "pooling_type": (-1, 0),
    "attention_type": (-1, 0),
    "yarn_ext_factor": (-1.0, 1e6),
    "yarn_attn_factor": (-1.0, 1e6),
    "yarn_beta_fast": (-1.0, 1e6),
    "yarn_beta_slow": (-1.0, 1e6),
    "yarn_orig_ctx": (0, 2**31 - 1),
    "offload_kqv": None,
    "op_offload": None,
    "swa_full": None,
    "no_perf": None,
}
_OPTION_ARGUMENTS = ("n_ubatch", "n_threads_batch", "type_k", "type_v", "flash_attn", "lora_scale")
_REFUSED_ARGUMENTS = {
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


def split_model_kwargs(
    model_kwargs: Mapping[str, Any], fields: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort `model_kwargs`, whose names are those of `llama_cpp.Llama`, by where they belong.

    Args:
        model_kwargs: What the user gave.
        fields: Names that are fields of `LlamaCpp` and must be given as such.

    Returns:
        Engine options, model settings and context settings.

    Raises:
        TypeError: A name that `Llama` does not know.
        ValueError: A value that has no meaning, or an argument that this engine cannot serve.
    """
    known = {*_MODEL_ARGUMENTS, *_CONTEXT_ARGUMENTS, *_OPTION_ARGUMENTS, *_REFUSED_ARGUMENTS}
    fields = set(fields)
    reject_unknown(model_kwargs, known | fields, "model_kwargs")
    options: dict[str, Any] = {}
    model: dict[str, Any] = {}
    context: dict[str, Any] = {}
    for name, value in model_kwargs.items():
        if name in _OPTION_ARGUMENTS:
            options[name] = value
        elif name in _REFUSED_ARGUMENTS:
            raise ValueError(f"model_kwargs: {name!r} cannot be used: {_REFUSED_ARGUMENTS[name]}.")
        elif name in fields:
            raise ValueError(f"model_kwargs: give {name}={value!r} as a parameter of its own.")
        elif name in _MODEL_ARGUMENTS:
            model[name] = _checked(name, value, _MODEL_ARGUMENTS[name])
        elif value is not None:
            context[name] = _checked(name, value, _CONTEXT_ARGUMENTS[name])
    return options, model, context


def _checked(name: str, value: Any, bounds: tuple[float, float] | None) -> Any:
    if name == "tensor_split":
        shares = tuple(float(share) for share in value or ())
        if any(not 0 <= share < float("inf") for share in shares) or len(shares) > 16:
            raise ValueError(f"tensor_split={value!r} must be up to 16 shares of 0 or more.")
        return shares or None
    if name == "kv_overrides":
        if not isinstance(value or {}, Mapping):
            raise TypeError(f"kv_overrides={value!r} must be a dict of metadata keys and values.")
        if any(not isinstance(key, str) for key in value or {}):
            raise TypeError(f"kv_overrides={value!r}: metadata keys are strings.")
        return tuple(sorted((value or {}).items()))
    if bounds is None:
        if not isinstance(value, bool):
            raise TypeError(f"model_kwargs: {name}={value!r} must be True or False.")
        return value
    low, high = bounds
    integral = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if integral else (int, float)):
        raise TypeError(f"model_kwargs: {name}={value!r} must be a number.")
    if not low <= value <= high:
        raise ValueError(f"model_kwargs: {name}={value!r} is out of range: {low:g} to {high:g}.")
    return value
