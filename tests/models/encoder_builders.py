"""Embedding models and rerankers with random weights, of each architecture that people use.

The tensors and keys are those that llama.cpp's converter writes (`load_arch_tensors` in
src/models/*.cpp of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.models.gguf_builders import add_bytes, copy_vocabulary, tiny_bert, tiny_llama

_WIDTH, _HEADS, _CONTEXT = 64, 4, 512
_HEAD = _WIDTH // _HEADS
Pooling = gguf.PoolingType

VOCABULARIES = {
    "bert": "ggml-vocab-bert-bge.gguf",
    "nomic-bert": "ggml-vocab-bert-bge.gguf",
    "jina-bert-v2": "ggml-vocab-bert-bge.gguf",
    "xlm-roberta": "ggml-vocab-nomic-bert-moe.gguf",
    "gemma-embedding": "ggml-vocab-llama-spm.gguf",
}
"""Files of llama.cpp's source with a vocabulary of the right kind; the others write bytes."""


def tiny_embedder(path: Path, kind: str, *, vocabularies: Path | None = None, **more: Any) -> Path:
    """Write a model of a kind (`EMBEDDERS`); `vocabularies` is the folder of `VOCABULARIES`."""
    name = VOCABULARIES.get(kind)
    vocabulary = None if name is None or vocabularies is None else vocabularies / name
    return EMBEDDERS[kind](path, vocabulary, **more)


def _write(
    path: Path,
    architecture: str,
    vocabulary: Path | None,
    keys: Callable[[gguf.GGUFWriter], object],
    tensors: dict[str, tuple[int, ...]],
    block: dict[str, tuple[int, ...]],
    *,
    layers: int = 2,
    pooling: gguf.PoolingType | None = Pooling.MEAN,
) -> Path:
    """Write a file; `tensors` and `block` say each tensor's shape, a bias with its own name.

    With `pooling` None, it says nothing of it.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"Tiny {architecture}")
    writer.add_block_count(layers)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_file_type(0)
    keys(writer)
    n_tokens = copy_vocabulary(writer, vocabulary) if vocabulary else add_bytes(writer)
    random = np.random.default_rng(7)
    every = {"token_embd.weight": (n_tokens, _WIDTH), **tensors}
    for layer in range(layers):
        every |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in every.items():
        bias = name.endswith(".bias")
        if len(shape) == 1 and not bias:
            values = np.ones(shape)
        else:
            values = random.normal(0, 0.1 if bias else 0.2, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _with_bias(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    found = {f"{name}.weight": shape for name, shape in shapes.items()}
    return found | {f"{name}.bias": shape[:1] for name, shape in shapes.items()}


def _plain(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape for name, shape in shapes.items()}


_SQUARE, _UP, _DOWN = (_WIDTH, _WIDTH), (2 * _WIDTH, _WIDTH), (_WIDTH, 2 * _WIDTH)
_TYPES = {"token_types.weight": (2, _WIDTH)}


def _nomic_bert(path: Path, vocabulary: Path | None, **more: Any) -> Path:
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_layer_norm_eps(1e-12)
        writer.add_rope_freq_base(1000.0)

    block = _plain(attn_qkv=(3 * _WIDTH, _WIDTH), attn_output=_SQUARE)
    block |= _plain(ffn_up=_UP, ffn_gate=_UP, ffn_down=_DOWN)
    block |= _with_bias(attn_output_norm=(_WIDTH,), layer_output_norm=(_WIDTH,))
    tensors = _TYPES | _with_bias(token_embd_norm=(_WIDTH,))
    return _write(path, "nomic-bert", vocabulary, keys, tensors, block, **more)


def _jina_bert_v2(path: Path, vocabulary: Path | None, **more: Any) -> Path:
    block = _with_bias(attn_q=_SQUARE, attn_k=_SQUARE, attn_v=_SQUARE, attn_output=_SQUARE)
    block |= _with_bias(attn_output_norm=(_WIDTH,), layer_output_norm=(_WIDTH,), ffn_down=_DOWN)
    block |= _plain(ffn_up=_UP, ffn_gate=_UP)
    tensors = _TYPES | _with_bias(token_embd_norm=(_WIDTH,))
    return _write(
        path, "jina-bert-v2", vocabulary, lambda w: w.add_layer_norm_eps(1e-12), tensors, block,
        **more,
    )  # fmt: skip


def _modern_bert(path: Path, vocabulary: Path | None, **more: Any) -> Path:
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_layer_norm_eps(1e-5)
        writer.add_rope_freq_base(160_000.0)
        writer.add_rope_freq_base_swa(10_000.0)
        writer.add_sliding_window(16)

    block = _plain(attn_norm=(_WIDTH,), attn_qkv=(3 * _WIDTH, _WIDTH), attn_output=_SQUARE)
    block |= _plain(ffn_norm=(_WIDTH,), ffn_up=(4 * _WIDTH, _WIDTH), ffn_down=_DOWN)
    tensors = _plain(token_embd_norm=(_WIDTH,), output_norm=(_WIDTH,))
    return _write(path, "modern-bert", vocabulary, keys, tensors, block, **more)


def _gemma_embedding(path: Path, vocabulary: Path | None, **more: Any) -> Path:
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_head_count_kv(1)
        writer.add_key_length(_HEAD)
        writer.add_value_length(_HEAD)
        writer.add_rope_freq_base(1e6)
        writer.add_sliding_window(16)
        # The projections behind the pooling, which the converter writes if it is asked to.
        for stage, (values_in, out) in {"2": (_WIDTH, 128), "3": (128, _WIDTH)}.items():
            writer.add_uint32(f"gemma-embedding.dense_{stage}_feat_in", values_in)
            writer.add_uint32(f"gemma-embedding.dense_{stage}_feat_out", out)

    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    block = _plain(**dict.fromkeys(norms, (_WIDTH,)), attn_q_norm=(_HEAD,), attn_k_norm=(_HEAD,))
    block |= _plain(attn_q=_SQUARE, attn_k=(_HEAD, _WIDTH), attn_v=(_HEAD, _WIDTH))
    block |= _plain(attn_output=_SQUARE, ffn_up=_UP, ffn_gate=_UP, ffn_down=_DOWN)
    tensors = _plain(output_norm=(_WIDTH,), dense_2=(128, _WIDTH), dense_3=(_WIDTH, 128))
    # Five of six layers have a window; llama.cpp ends the process where none is without.
    return _write(path, "gemma-embedding", vocabulary, keys, tensors, block, layers=6, **more)


def _bert(path: Path, vocabulary: Path | None, **more: Any) -> Path:
    assert vocabulary is not None
    return tiny_bert(path, vocabulary=vocabulary, **more)


def _xlm_roberta(path: Path, vocabulary: Path | None, **more: Any) -> Path:
    # What the converter writes of it is a BERT (its first two positions cut off) with one type of
    # tokens and a vocabulary of SentencePiece; 250,000 tokens, so it is narrow.
    assert vocabulary is not None
    return tiny_bert(path, vocabulary=vocabulary, width=32, token_types=1, **more)


def _qwen3(
    path: Path,
    _vocabulary: Path | None,
    pooling: gguf.PoolingType = Pooling.LAST,
    add_end: bool | None = True,
) -> Path:
    """Qwen3-Embedding, or Qwen3-Reranker with its two answers: a language model with a pooling."""

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_pooling_type(pooling)
        writer.add_key_length(_HEAD)
        writer.add_value_length(_HEAD)
        if add_end is not None:
            writer.add_add_eos_token(add_end)
        if pooling == Pooling.RANK:
            writer.add_array("qwen3.classifier.output_labels", ["yes", "no"])
            form = "<|start|>{query}<|end|>{document}<|end|>"
            writer.add_string("tokenizer.chat_template.rerank", form)
            values = np.random.default_rng(3).normal(0, 0.2, (2, _WIDTH))
            writer.add_tensor("cls.output.weight", values.astype(np.float32))

    norms = {"attn_q_norm": _HEAD, "attn_k_norm": _HEAD}
    return tiny_llama(path, architecture="qwen3", norms=norms, context=_CONTEXT, edit=edit)


EMBEDDERS: dict[str, Callable[..., Path]] = {
    "bert": _bert,
    "nomic-bert": _nomic_bert,
    "xlm-roberta": _xlm_roberta,
    "jina-bert-v2": _jina_bert_v2,
    "modern-bert": _modern_bert,
    "gemma-embedding": _gemma_embedding,
    "qwen3": _qwen3,
}
"""A builder for each kind of model: path, file with a vocabulary or None, pooling."""
