"""A file of 2023 in miniature, to try `convert_ggml` on: the real ones are gigabytes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

_F32, _F16 = 0, 1


def _vocabulary() -> list[tuple[bytes, float]]:
    """Token texts with scores, in the order of LLaMA's vocabulary: special, bytes, pieces."""
    pieces = [b" ", b"e", b"t", b"a", b"o", b"h", b"l", b"he", b"th", b"the", b"hello", b" the"]
    special = [(b"", 0.0), (b"", 0.0), (b"", 0.0)]
    single = [(bytes([byte]), 0.0) for byte in range(256)]
    return special + single + [(piece, -float(i)) for i, piece in enumerate(pieces)]


def practice_ggml(
    path: str | os.PathLike[str],
    *,
    magic: bytes = b"tjgg",
    version: int | None = 3,
    file_type: int = _F32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 4,
    width: int = 64,
    feed_forward: int = 96,
) -> Path:
    """Write a LLaMA with random weights (0.4 MB) in one of the formats before GGUF.

    It speaks gibberish, but has all parts of the real ones.

    Args:
        path: The file to write.
        magic: First four bytes: `tjgg` (GGJT), `fmgg` (GGMF) or `lmgg` (GGML).
        version: Version after the magic; None for GGML, which had none.
        file_type: 0 for F32, 1 for F16; other numbers are only written into the header.
        layers: Blocks.
        heads: Attention heads.
        kv_heads: Heads for keys and values.
        width: Width of the embeddings.
        feed_forward: Width of the feed-forward network.

    Returns:
        The path.
    """
    path = Path(path)
    scored, aligned = magic != b"lmgg", magic == b"tjgg"
    words = _vocabulary()
    random = np.random.default_rng(3)
    raw = bytearray(magic)
    if version is not None:
        raw += struct.pack("<I", version)
    raw += struct.pack("<7I", len(words), width, 32, heads, layers, width // heads, file_type)
    for text, score in words:
        raw += struct.pack("<I", len(text)) + text
        raw += struct.pack("<f", score) if scored else b""

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.1, shape)
        kind = _F16 if len(shape) > 1 and file_type == _F16 else _F32
        raw.extend(struct.pack("<3I", len(shape), len(name), kind))
        raw.extend(struct.pack(f"<{len(shape)}I", *reversed(shape)) + name.encode())
        if aligned:  # so that the file can be mapped
            raw.extend(bytes(-len(raw) % 32))
        raw.extend(values.astype(np.float16 if kind == _F16 else np.float32).tobytes())

    add("tok_embeddings.weight", len(words), width)
    add("norm.weight", width)
    add("output.weight", len(words), width)
    keys = width // heads * kv_heads
    for i in range(layers):
        add(f"layers.{i}.attention.wq.weight", width, width)
        add(f"layers.{i}.attention.wk.weight", keys, width)
        add(f"layers.{i}.attention.wv.weight", keys, width)
        add(f"layers.{i}.attention.wo.weight", width, width)
        add(f"layers.{i}.attention_norm.weight", width)
        add(f"layers.{i}.feed_forward.w1.weight", feed_forward, width)
        add(f"layers.{i}.feed_forward.w2.weight", width, feed_forward)
        add(f"layers.{i}.feed_forward.w3.weight", feed_forward, width)
        add(f"layers.{i}.ffn_norm.weight", width)
    path.write_bytes(raw)
    return path
