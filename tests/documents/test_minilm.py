"""The converter, with a model of the same kind whose weights are random."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from helpers import LlamaCppEmbeddings, inspect_model
from tests.documents.minilm import convert

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "river",
    "is",
    "long",
    "##er",
    ".",
    "##",
]
WIDTH, LAYERS, CONTEXT = 32, 2, 16


def package(folder: Path, seed: int) -> Path:
    """A package as the real one is: `model/` with configuration, vocabulary and weights."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (CONTEXT, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "pooler.dense.weight": (WIDTH, WIDTH),
    }
    linear = {"attention.self.query": (WIDTH, WIDTH), "attention.self.key": (WIDTH, WIDTH),
              "attention.self.value": (WIDTH, WIDTH), "attention.output.dense": (WIDTH, WIDTH),
              "intermediate.dense": (64, WIDTH), "output.dense": (WIDTH, 64)}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        for name, shape in linear.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        norms += [
            f"encoder.layer.{layer}.{part}.LayerNorm" for part in ("attention.output", "output")
        ]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (WIDTH,)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in shapes.items():
        raw = random.normal(0, 0.3, shape).astype(np.float32).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += raw
    model = folder / "package" / "model"
    model.mkdir(parents=True)
    text = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (model / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    config = {
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": CONTEXT,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-12,
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "package"


def test_a_package_becomes_a_model_that_reads_and_makes_vectors(tmp_path: Path) -> None:
    path = convert(package(tmp_path, 7), tmp_path / "mini.gguf")
    info = inspect_model(path)
    assert info.architecture == "bert" and info.quantization == "F16"
    with LlamaCppEmbeddings(model_path=path) as model:
        assert model.load_report.pooling == "mean"
        assert model.get_token_ids("The river is longer. xyz") == [2, 5, 6, 7, 8, 9, 10, 1, 3]
        one, other = np.array(model.embed_documents(["the river", "river the"]))
        assert one.shape == (WIDTH,) and one @ one == pytest.approx(1, abs=1e-5)
        assert not np.allclose(one, other, atol=1e-3)  # positions count
