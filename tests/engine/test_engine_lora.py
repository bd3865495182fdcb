"""LoRA adapters: tiny real ones, made here for the embedded model."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from helpers import LlamaCpp
from helpers.engine import Engine, Request
from helpers.errors import ModelFileError
from helpers.isolation import make_core
from helpers.models.adapter import check_lora_file
from helpers.models.check import checked_header
from tests.models.gguf_builders import Draft
from tests.models.header_fuzz import mutants
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


def _changed(path: Path, edit: Callable[[Draft], object]) -> Path:
    draft = Draft(write_adapter(path).read_bytes())
    edit(draft)
    draft.place_tensors()
    return draft.write(path)


def _kind(tensor: int, number: int) -> Callable[[Draft], object]:
    return lambda draft: draft.tensors[tensor].__setitem__(2, number)


def _shape(tensor: int, *shape: int) -> Callable[[Draft], object]:
    return lambda draft: draft.tensors[tensor].__setitem__(1, list(shape))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        *[(_kind(tensor, kind), "no weight has") for tensor in (0, 1) for kind in range(24, 29)],
        (_shape(0, N_EMBD, 5), "do not fit"),
        (_shape(1, 4, N_EMBD, 2), "do not fit"),
        (lambda draft: draft.tensors.pop(), "missing"),
        (lambda draft: draft.tensors.clear(), "no tensors"),
        (lambda draft: draft.tensors[0].__setitem__(0, b"a.lora_c"), "neither"),
        (lambda draft: draft.set("adapter.lora.alpha", "f", 6, float("nan")), "nan"),
        (lambda draft: draft.set("adapter.lora.alpha", "I", 4, 4), "u32"),
        (lambda draft: draft.set("general.type", "I", 4, 4), "general.type"),
        (lambda draft: draft.set("general.architecture", "I", 4, 4), "architecture"),
        (lambda draft: draft.remove("adapter.type"), "adapter.type"),
        (lambda draft: draft.set_array("adapter.alora.invocation_tokens", "I", 4, [1]), "aLoRA"),
    ],
)
def test_what_ggml_cannot_multiply_is_refused(
    tmp_path: Path, edit: Callable[[Draft], object], words: str
) -> None:
    path = _changed(tmp_path / "odd.gguf", edit)
    with pytest.raises(ModelFileError, match=r"LoRA adapter .*odd\.gguf") as caught:
        check_lora_file(path, checked_header(options().model_path))
    assert words in str(caught.value)


def test_an_output_layer_that_is_the_input_layer_cannot_be_changed(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "input.gguf", tensor="token_embd.weight")
    draft = Draft(path.read_bytes())
    draft.tensors[0][1], draft.tensors[1][1] = [4, 49_152], [4, N_EMBD]
    draft.place_tensors()
    with pytest.raises(ModelFileError, match="output layer too"):
        check_lora_file(draft.write(path), checked_header(options().model_path))


def test_damaged_adapters_are_refused_or_fit(tmp_path: Path) -> None:
    base = write_adapter(tmp_path / "a.gguf").read_bytes()
    model = checked_header(options().model_path)
    verdicts = collections.Counter[bool]()
    for mutant in mutants(base, 5, 300, vocabulary=False):
        mutant.write(tmp_path / "b.gguf")
        try:
            check_lora_file(tmp_path / "b.gguf", model)
        except ModelFileError as error:
            assert "LoRA" in str(error)
            verdicts[False] += 1
        else:
            verdicts[True] += 1
    assert verdicts[True] > 3 and verdicts[False] > 150
