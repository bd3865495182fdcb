"""Models that the rules of this room know whole: every key, every tensor, its shape and its type.

What is added to such a model, or is of another architecture, may be as good. But only llama.cpp can
tell, and it tells some of it by ending its process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from helpers.models.formats import words
from helpers.models.header import Header
from helpers.models.tensors import PLAIN, plain_shapes, trimmed

_KEYS = words(
    """
    attention.causal attention.head_count attention.head_count_kv attention.key_length
    attention.layer_norm_rms_epsilon attention.value_length block_count context_length
    embedding_length expert_count expert_used_count feed_forward_length rope.dimension_count
    rope.freq_base rope.scaling.attn_factor rope.scaling.factor rope.scaling.finetuned
    rope.scaling.original_context_length rope.scaling.type vocab_size
    """
)
_OTHER_KEYS = re.compile(
    r"general\.(?!alignment|tensor_extra).*|split\..*|quantize\..*|tokenizer\.chat_template.*"
    r"|tokenizer\.ggml\.(model|pre|tokens|token_type|scores|merges|add_\w+|\w+_token_ids?)"
)
_TOKENIZERS = ("gpt2", "llama")


def is_proved(model: Sequence[Header]) -> bool:
    """Say whether nothing in the headers of a model can end the process that uses it.

    Args:
        model: The headers of its parts, which have passed `check_model_file`.
    """
    header = model[0]
    prefix = f"{header.architecture}."
    known = all(
        key.removeprefix(prefix) in _KEYS if key.startswith(prefix) else _OTHER_KEYS.fullmatch(key)
        for key in header
    )
    if (
        header.architecture not in PLAIN
        or not known
        or header.hyper("expert_count")
        or header.get("tokenizer.ggml.model") not in _TOKENIZERS
    ):
        return False
    tensors = [tensor for part in model for tensor in part.tensors]
    needed, possible = plain_shapes(header, {tensor.name for tensor in tensors})
    shapes = needed | possible
    return all(
        trimmed(tensor.shape) == trimmed(shapes.get(tensor.name, ()))
        and (tensor.type == "F32" or len(trimmed(tensor.shape)) == 2)
        # Its scales are tensors of their own.
        and tensor.type != "NVFP4"
        for tensor in tensors
    )
