"""Vocabularies that llama.cpp cannot use, or would end the process on (src/llama-vocab.cpp)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from helpers.models.formats import PRE_TOKENIZERS
from helpers.models.header import Header
from helpers.models.verdict import Doubt

_WITH_MERGES = frozenset({"gpt2", "hybriddna", "whitespace", "gemma4"})
_BYTE_TYPE = 6
# One byte as a vocabulary of RWKV writes it.
_RWKV_BYTE = re.compile(rb"\\x..|\\[^x]|[^\\]", re.DOTALL)
_TOKENIZERS = _WITH_MERGES | {"llama", "bert", "t5", "rwkv", "plamo2", "test", "no_vocab", "none"}


def vocabulary_problems(header: Header) -> Iterator[str]:
    """What is wrong with the vocabulary in a header, one sentence each."""
    model = header.get("tokenizer.ggml.model")
    if model is None:
        yield "is incomplete: it has no vocabulary ('tokenizer.ggml.model')"
        return
    if model not in _TOKENIZERS:
        yield Doubt(f"has a tokenizer {model!r} that helpers does not know")
    if model in ("no_vocab", "none"):
        yield (
            "has no vocabulary: it is a part of a speech or image model and cannot read text. "
            "Choose a text model."
        )
    key = "tokenizer.ggml.tokens"
    if key not in header or header.type_of(key) != ("array", "str") or not header.length(key):
        yield f"is incomplete: its vocabulary ({key!r}) is missing or empty"
        return
    n_tokens = header.length(key)
    for name, kinds in (("token_type", ("i32",)), ("scores", ("f32", "i32"))):
        other = f"tokenizer.ggml.{name}"
        if other in header and not (
            header.type_of(other)[0] == "array"
            and header.type_of(other)[1] in kinds
            and header.length(other) >= n_tokens
        ):
            yield f"is damaged: {other!r} does not match the {n_tokens:,} tokens"
    pre = header.get("tokenizer.ggml.pre", "")
    if model in ("gpt2", "hybriddna", "whitespace") and pre and pre not in PRE_TOKENIZERS:
        yield Doubt(f"has a pre-tokenizer {pre!r} that helpers does not know")
    merges = "tokenizer.ggml.merges"
    if model in _WITH_MERGES and merges not in header:
        if not pre or pre in PRE_TOKENIZERS - {"kimi-k2"}:
            yield f"is incomplete: its tokenizer needs {merges!r}, which is missing"
    elif merges in header and header.type_of(merges) != ("array", "str"):
        yield f"is damaged: {merges!r} is not an array of strings"
    yield from _tokens(header, key, n_tokens)
    yield from _token_types(header, str(model))


def _token_types(header: Header, model: str) -> Iterator[str]:
    """A vocabulary of this kind has no tokens that stand for a byte (token_to_byte aborts)."""
    key = "tokenizer.ggml.token_type"
    if model == "bert" and key in header and _BYTE_TYPE in header[key]:
        yield f"is damaged: its {model!r} vocabulary has byte tokens ({key})"


def _tokens(header: Header, key: str, n_tokens: int) -> Iterator[str]:
    """Every token must be different (an assertion in llama_vocab::impl::load)."""
    # llama.cpp takes them as C strings, which end at the first zero byte.
    tokens = [token.partition(b"\0")[0] for token in header.raw_strings(key)]
    if b"" in tokens:
        # llama.cpp gives empty tokens a name with their number, which makes them different.
        tokens = [token or b"[EMPTY_%d]" % number for number, token in enumerate(tokens)]
    distinct = set(tokens)
    if header["tokenizer.ggml.model"] == "llama":
        # Unknown characters are written as bytes; a byte without a token ends the process.
        lacking = [b for b in range(256) if not {b"<0x%02X>" % b, bytes([b])} & distinct]
        if lacking:
            yield (
                f"has a vocabulary without tokens for {len(lacking)} of the 256 bytes, such as "
                f"<0x{lacking[0]:02X}>: llama.cpp cannot read every text with it"
            )
    if header["tokenizer.ggml.model"] == "rwkv" and (lacking_bytes := _without_end(distinct)):
        yield (
            f"has a vocabulary with tokens that begin with {lacking_bytes[0]!r} and none of that "
            "byte alone: llama.cpp would never come to an end with some texts"
        )
    if len(distinct) < n_tokens:
        twice = _first_repeated(tokens).decode("utf-8", "replace")
        yield f"is damaged: the token {twice!r} appears in its vocabulary twice"


def _without_end(tokens: set[bytes]) -> list[bytes]:
    """First bytes of tokens that are no token (llm_tokenizer_rwkv_session::tokenize loops)."""
    first = {match[0]: token for token in tokens if (match := _RWKV_BYTE.match(token))}
    return sorted(byte for byte in first if byte not in tokens)


def _first_repeated(tokens: list[bytes]) -> bytes:
    seen: set[bytes] = set()
    for token in tokens:
        if token in seen:
            return token
        seen.add(token)
    return b""
