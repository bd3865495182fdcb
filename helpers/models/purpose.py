"""What a model makes: text, or something else. Who wants text must know before it is loaded.

Models without a memory of what they have read end the process at the first text that they are to
write (`llama_model::create_memory` gives them none, and their graph keeps every token's output).
"""

from __future__ import annotations

from helpers.errors import ModelFileError
from helpers.models.formats import words
from helpers.models.header import Header

_EMBEDDING = words(
    """
    bert eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llama-embed modern-bert neo-bert
    nomic-bert nomic-bert-moe t5encoder
    """
)
_DIFFUSION = words("dream llada llada-moe rnd1")
_SPEECH = words("pockettts qwen3tts wavtokenizer-dec")
_DRAFT = words("dflash eagle3 gemma4-assistant")
_RECURRENT = ("ssm.", "wkv.", "shortconv.", "kda.")
# `{architecture}.pooling_type` (enum llama_pooling_type); 0 is none.
_RANKING = 4


def check_generates(header: Header) -> None:
    """Refuse a model that does not write text one token after the other.

    Args:
        header: Its header, with the `kv_overrides` of the load in it.

    Raises:
        ModelFileError: What it makes instead.
    """
    if problem := _why_no_text(header):
        raise ModelFileError(
            f"{header.path.name} {problem}. To generate text, choose a language model, for example "
            "helpers.default_model()."
        )


def check_embeds(header: Header) -> None:
    """Refuse a model whose states make no vector of a text.

    Args:
        header: Its header, with the `kv_overrides` of the load in it.

    Raises:
        ModelFileError: Why not.
    """
    arch = header.architecture
    if arch in _DIFFUSION | _SPEECH | _DRAFT or arch == "t5":
        raise ModelFileError(
            f"{header.path.name} makes no vectors of texts (architecture {arch}). Choose an "
            "embedding model, or a language model that reads from left to right."
        )
    if any(key.removeprefix(f"{arch}.").startswith(_RECURRENT) for key in header):
        raise ModelFileError(
            f"{header.path.name} keeps a state instead of what it has read (architecture {arch}): "
            "several texts cannot be computed in one piece. Choose an embedding model."
        )


def _why_no_text(header: Header) -> str | None:
    arch = header.architecture
    named = f"(architecture {arch})"
    pooling = header.hyper("pooling_type")
    if pooling == _RANKING:
        return f"is a reranker {named}: it makes scores of texts, no text"
    if arch in _EMBEDDING or pooling:
        return f"is an embedding model {named}: it makes vectors, no text"
    if arch in _DIFFUSION:
        return (
            f"is a diffusion model {named}: it fills in a whole text in steps, and cannot write "
            "one token after the other"
        )
    if arch == "t5":
        return f"does not generate text with a decoder alone {named}: it has an encoder beside it"
    if arch in _SPEECH:
        return f"is a part of a speech model {named}: it makes sound, no text"
    if arch in _DRAFT:
        return f"is a draft model {named}: it guesses for another model, and writes no text alone"
    if header.hyper("attention.causal", True) is False:
        return (
            f"reads its text in both directions ({arch}.attention.causal is false), as embedding "
            "models do: it makes vectors, no text"
        )
    return None
