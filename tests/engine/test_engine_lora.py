"""LoRA adapters: tiny real ones, made here for the embedded model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from helpers import LlamaCpp
from helpers.engine import Engine, Request
from helpers.errors import ModelFileError
from helpers.isolation import make_core
from tests.support import options

N_EMBD = 576


def write_adapter(
    path: Path,
    *,
    scale: float = 0.5,
    architecture: str = "llama",
    rows: int = N_EMBD,
    tensor: str = "blk.5.attn_q.weight",
) -> Path:
    draw = np.random.default_rng(3)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    rank = 4
    writer.add_tensor(f"{tensor}.lora_a", draw.normal(0, 1, (rank, rows)).astype(np.float32))
    writer.add_tensor(
        f"{tensor}.lora_b", (draw.normal(0, 1, (N_EMBD, rank)) * scale).astype(np.float32)
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def likelihood(**changes: object) -> float:
    with Engine(options(n_ctx=256, **changes)) as engine:
        found = engine.generate(
            Request(prompt="The capital of France is", max_tokens=1, temperature=0, logprobs=1)
        ).logprobs
    assert found is not None
    return float(found["token_logprobs"][0])


def test_an_adapter_changes_the_model_in_proportion_to_its_scale(tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a.gguf"))
    plain = likelihood()
    assert likelihood(lora_path=path, lora_scale=0.0) == pytest.approx(plain, abs=1e-4)
    changed = likelihood(lora_path=path)
    assert abs(changed - plain) > 0.01
    assert likelihood(lora_path=path, lora_scale=-1.0) != pytest.approx(changed, abs=1e-3)
    nothing = str(write_adapter(tmp_path / "zero.gguf", scale=0.0))
    assert likelihood(lora_path=nothing) == pytest.approx(plain, abs=1e-4)


def test_an_adapter_holds_in_batches_and_children_too(tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a.gguf"))
    request = Request(prompt="The capital of France is", max_tokens=6, temperature=0)
    with Engine(options(lora_path=path)) as engine:
        alone = engine.generate(request).text
        assert [done.text for done in engine.generate_many([request] * 3)] == [alone] * 3
    with Engine(options(lora_path=path, isolate=True), make_core) as engine:
        assert engine.generate(request).text == alone
    with LlamaCpp(
        model_path=options().model_path, lora_path=path, n_ctx=1024, temperature=0, max_tokens=6
    ) as llm:
        assert llm.invoke("The capital of France is") == alone


@pytest.mark.parametrize(
    "wrong",
    [{"architecture": "gemma"}, {"rows": 128}, {"tensor": "blk.77.attn_q.weight"}],
    ids=["architecture", "shape", "layer"],
)
def test_an_adapter_for_another_model_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    path = write_adapter(tmp_path / "wrong.gguf", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=r"wrong\.gguf cannot be used with this model"):
        Engine(options(lora_path=str(path)))


def test_an_adapter_made_anew_at_the_same_path_answers(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "l.gguf", scale=0.5)
    request = Request(prompt="Once upon a time", temperature=0, max_tokens=12)
    first = Engine(options(lora_path=str(path)))
    before = first.generate(request).text
    write_adapter(tmp_path / "new.gguf", scale=5.0).replace(path)
    with Engine(options(lora_path=str(path))) as second:
        assert second._shared is not first._shared
        assert second.generate(request).text != before
    assert first.generate(request).text == before
    first.close()
