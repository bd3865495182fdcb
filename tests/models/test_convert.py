"""Quantizing, judging and converting model files, with llama.cpp's own code doing the work."""

from __future__ import annotations

import math
import os
import stat
import sys
from pathlib import Path

import llama_cpp
import numpy as np
import psutil
import pytest

from helpers import (
    EngineCrashed,
    HelpersError,
    InstallError,
    LlamaCpp,
    ModelFileError,
    convert_ggml,
    default_model,
    inspect_model,
    perplexity,
    quantize,
)
from helpers.convert import Quantized, ggml, log_probabilities, practice_ggml
from helpers.convert.output import check_room
from tests.models.gguf_builders import tiny_llama

TEXT = (
    "The sun is a star at the centre of our solar system. Light from the sun takes about eight "
    "minutes to reach the earth. Plants use this light to grow, and animals eat the plants. At "
    "night we can see the moon and many other stars, which are much farther away than the sun."
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama in F32 whose rows K-quants divide."""
    path = tmp_path_factory.mktemp("tiny") / "Tiny.F32.gguf"
    return tiny_llama(path, width=256, heads=4, kv_heads=4, feed_forward=256)


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """The embedded model with fewer bits."""
    target = tmp_path_factory.mktemp("embedded") / "small.gguf"
    return quantize(default_model(), "Q4_0", target, allow_requantize=True)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# --- quantize ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q6_K", "Q5_1", "Q4_K_M", "IQ4_NL", "Q2_K"])
def test_every_kind_of_type_is_made_and_loads(tiny: Path, tmp_path: Path, kind: str) -> None:
    made = quantize(tiny, kind.lower(), tmp_path)
    assert made.path == tmp_path / f"Tiny.{kind}.gguf"
    info = inspect_model(made)
    assert info.quantization == kind == made.type
    assert made.n_bytes == made.path.stat().st_size < made.source_bytes == tiny.stat().st_size
    assert made.bits_per_weight == info.bits_per_weight < 17
    assert made.remark == ""
    with LlamaCpp(model_path=made, n_gpu_layers=0, max_tokens=2, temperature=0) as llm:
        llm.invoke("hello")
        assert llm.last_timings.generated_tokens == 2


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8.5), ("Q5_1", 6.0), ("Q5_0", 5.5)])
def test_the_embedded_model_gets_the_bits_of_the_type(
    tmp_path: Path, kind: str, bits: float
) -> None:
    steps: list[tuple[int, int]] = []
    made = quantize(
        default_model(),
        kind,
        tmp_path / "made.gguf",
        allow_requantize=True,
        progress=lambda done, total: steps.append((done, total)),
    )
    source = inspect_model(default_model())
    # Of 272 tensors, norms stay F32 and the embeddings Q8_0; all others get the type.
    expected = sum(
        tensor.n_elements * bits / 8 if tensor.type == "Q4_1" else tensor.n_bytes
        for tensor in source.tensors
    )
    assert 8 * expected / source.n_params == pytest.approx(made.bits_per_weight, rel=1e-6)
    assert steps == [(n, 272) for n in range(1, 273)]
    assert "does not come back" in made.remark
    assert inspect_model(made).chat_template == source.chat_template


def test_requantizing_costs_quality_and_says_so(q4_0: Quantized) -> None:
    assert "rounded once already" in q4_0.remark
    assert q4_0.n_bytes < q4_0.source_bytes
    before, after = perplexity(default_model(), TEXT), perplexity(q4_0, TEXT)
    assert before * 1.02 < after < before * 2


def test_rows_of_576_make_k_quants_fall_back(tmp_path: Path) -> None:
    made = quantize(default_model(), "Q2_K", tmp_path / "k.gguf", allow_requantize=True)
    # Only ffn_down has rows of 1536, which blocks of 256 divide: 30 of 211 matrices.
    assert made.fallbacks == 180
    assert made.bits_asked == 2.625 and 5.0 < made.bits_per_weight < 5.3
    assert made.tensor_types["Q4_0"] == 180 and made.tensor_types["Q3_K"] == 30
    assert "180" in str(made) and "5.14 (Q2_K: 2.625)" in made._repr_html_()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Q4_K", "Did you mean Q4_K_M or Q4_K_S"),
        ("Q4KM", "Q4_K_M"),
        ("nonsense", "The types are F32, F16"),
        ("IQ2_XS", "needs an importance matrix"),
        ("MXFP4_MOE", "trained in it"),
        ("", "There is no type ''"),
    ],
)
def test_unknown_types_are_refused(tiny: Path, tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"type|needs|is for") as caught:
        quantize(tiny, kind, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("Q8_0", "what was rounded away"), ("Q4_0", "rounded once already"), ("Q4_1", "is Q4_1 al")],
)
def test_steps_without_sense_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantize(default_model(), kind, tmp_path)
    assert not list(tmp_path.iterdir())


def test_outputs_that_would_lose_something_are_refused(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "same.gguf"
    source.write_bytes(tiny.read_bytes())
    with pytest.raises(ValueError, match="file that is read"):
        quantize(source, "Q8_0", source, overwrite=True)
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    with pytest.raises(ValueError, match="file that is read"):
        quantize(source, "Q8_0", link, overwrite=True)
    (tmp_path / "mine.gguf").write_bytes(b"precious")
    with pytest.raises(ModelFileError, match="exists already"):
        quantize(source, "Q8_0", tmp_path / "mine.gguf")
    assert (tmp_path / "mine.gguf").read_bytes() == b"precious"
    with pytest.raises(ModelFileError, match="no folder"):
        quantize(source, "Q8_0", tmp_path / "absent" / "x.gguf")
    with pytest.raises(ModelFileError, match="belongs to an installed package"):
        quantize(default_model(), "Q4_0", allow_requantize=True)
    with pytest.raises(ModelFileError, match="There is no file"):
        quantize(tmp_path / "absent.gguf", "Q8_0")


def test_replaces_when_told_and_reads_split_files(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "Part.gguf", width=64, split_max_tensors=8)
    first = tmp_path / "Part-00001-of-00003.gguf"
    assert inspect_model(first).n_parts == 3
    (tmp_path / "Part.Q8_0.gguf").write_bytes(b"old")
    made = quantize(first, "Q8_0", overwrite=True)
    assert made.path == tmp_path / "Part.Q8_0.gguf"
    assert inspect_model(made).n_parts == 1 and inspect_model(made).quantization == "Q8_0"


def test_a_full_disk_is_noticed_before(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"MiB free\. Make room"):
        check_room(tmp_path, 2**60)


def test_a_killed_quantizer_is_an_exception_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made.gguf"
    target.write_bytes(b"precious")

    def kill(done: int, _total: int) -> None:
        if done == 20:
            for child in psutil.Process().children():
                if "helpers.convert.child" in child.cmdline():
                    child.kill()

    with pytest.raises(EngineCrashed, match="The kernel is unharmed") as caught:
        quantize(
            default_model(), "Q8_0", target, allow_requantize=True, overwrite=True, progress=kill
        )
    assert caught.value.exit_status not in (0, None)
    assert target.read_bytes() == b"precious" and not leftovers(tmp_path)


def test_an_interrupt_ends_the_child_and_leaves_nothing(tmp_path: Path) -> None:
    children: list[psutil.Process] = []

    def interrupt(_done: int, _total: int) -> None:
        children.extend(psutil.Process().children())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(default_model(), "Q8_0", tmp_path / "x", allow_requantize=True, progress=interrupt)
    workers = [child for child in children if child.is_running()]
    assert children and not any("helpers.convert.child" in c.cmdline() for c in workers)
    assert not list(tmp_path.iterdir())


def test_two_at_once_do_not_mix(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.gguf"
    inner: list[Quantized] = []

    def meanwhile(done: int, _total: int) -> None:
        if done == 1:
            inner.append(quantize(tiny, "Q8_0", target, overwrite=True))

    made = quantize(tiny, "Q4_0", target, overwrite=True, progress=meanwhile)
    assert [made.type, inner[0].type] == ["Q4_0", "Q8_0"]
    assert made.n_bytes == target.stat().st_size < inner[0].n_bytes
    assert inspect_model(target).quantization == "Q4_0"
    # Who did not want to replace anything does not, though the name was free when it began.
    target.unlink()
    with pytest.raises(ModelFileError, match="exists already"):
        quantize(tiny, "Q4_0", target, progress=meanwhile)
    assert inspect_model(target).quantization == "Q8_0"
    assert [path.name for path in tmp_path.iterdir()] == ["made.gguf"]


def test_the_result_tells_of_what_it_made_not_of_what_came_later(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replaced_again(self: Path, target: Path) -> Path:
        real(self, target)
        monkeypatch.setattr(Path, "replace", real)
        quantize(tiny, "Q8_0", target, overwrite=True)
        return target

    monkeypatch.setattr(Path, "replace", replaced_again)
    made = quantize(tiny, "Q4_0", tmp_path / "made.gguf", overwrite=True)
    assert made.type == "Q4_0" and made.bits_per_weight < 6
    assert inspect_model(made).quantization == "Q8_0"


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")
def test_nobody_can_put_a_link_under_the_name_that_is_written_to(
    tiny: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".made.{os.getpid()}.partial").symlink_to(victim)
    modes: set[int] = set()

    def look(_done: int, _total: int) -> None:
        modes.update(path.stat().st_mode for path in tmp_path.iterdir() if path.is_dir())

    made = quantize(tiny, "Q8_0", tmp_path / "made.gguf", progress=look)
    assert modes == {stat.S_IFDIR | 0o700}
    assert made.path.stat().st_mode == tiny.stat().st_mode
    made.path.unlink()
    made.path.symlink_to(victim)  # the result replaces a link
    quantize(tiny, "Q8_0", made.path, overwrite=True)
    assert not made.path.is_symlink() and victim.read_bytes() == b"precious"


# --- perplexity ----------------------------------------------------------------------------------


def reference(path: Path, text: str, window: int) -> list[float]:
    """Log-probabilities by another way: llama-cpp-python's own class, one window after another."""
    llm = llama_cpp.Llama(
        str(path),
        n_ctx=window,
        logits_all=True,
        flash_attn=True,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
    )
    tokens = llm.tokenize(text.encode(), special=False)
    found = []
    for start in range(0, len(tokens) - 1, window - 1):
        part = tokens[start : start + window]
        llm.reset()
        llm.eval(part)
        for row, token in zip(llm.scores, part[1:], strict=False):
            exact = row.astype(np.float64)
            found.append(exact[token] - np.logaddexp.reduce(exact))
    llm.close()
    return found


def test_perplexity_agrees_with_an_independent_computation() -> None:
    ours = log_probabilities(default_model(), TEXT)
    theirs = reference(default_model(), TEXT, 128)
    assert len(ours) == len(theirs) > 50
    assert ours == pytest.approx(theirs, abs=0.02)
    assert math.exp(-ours.mean()) == pytest.approx(math.exp(-np.mean(theirs)), rel=0.002)


def test_windows_agree_with_an_independent_computation(tiny: Path) -> None:
    text = TEXT[:100]
    ours = log_probabilities(tiny, text, window=24)
    theirs = reference(tiny, text, 24)
    assert len(ours) == len(theirs) > 80
    assert ours == pytest.approx(theirs, abs=0.01)
    assert perplexity(tiny, text, window=24) == pytest.approx(math.exp(-np.mean(theirs)), rel=1e-3)


def test_a_model_without_knowledge_hesitates_between_all_tokens(tiny: Path) -> None:
    value = perplexity(tiny, "xyz " * 40, window=64)
    n_vocab = inspect_model(tiny).n_vocab
    assert n_vocab / 3 < value < n_vocab * 3


def test_a_cheaper_cache_costs_what_it_should() -> None:
    """q8_0 next to nothing, q4_0 more, and what is no type is refused before a process starts."""
    text = (Path(__file__).parents[2] / "notebooks/data/river.txt").read_text(encoding="utf-8")
    found = {
        kind: perplexity(default_model(), text, type_k=kind, type_v=kind)
        for kind in (None, "f16", "q8_0", "q4_0")
    }
    assert found[None] == found["f16"]
    assert found["q8_0"] != found["f16"] == pytest.approx(found["q8_0"], rel=0.02)
    assert found["q4_0"] > 1.01 * found["f16"]
    with pytest.raises(ValueError, match="q9_0"):
        perplexity(default_model(), text, type_k="q9_0")


def test_perplexity_takes_a_llm_and_tells_how_far_it_is(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    with LlamaCpp(model_path=tiny, n_gpu_layers=0) as llm:
        of_llm = perplexity(llm, "hello the world " * 5, progress=lambda *pair: seen.append(pair))
    assert of_llm == perplexity(tiny, "hello the world " * 5)
    assert seen and seen[-1][0] == seen[-1][1]


def test_perplexity_refuses_what_it_cannot_judge(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(HelpersError, match="fewer than two tokens"):
        perplexity(tiny, "x")
    with pytest.raises(ValueError, match="window"):
        perplexity(tiny, "hello", window=1)
    with pytest.raises(TypeError, match="text must be a str"):
        perplexity(tiny, b"hello")  # type: ignore[arg-type]
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(ModelFileError, match="web page"):
        perplexity(tmp_path / "page.gguf", "hello")


# --- convert_ggml --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converter() -> Path:
    """The converter's script, from the cache or fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_DEFAULT_TIMEOUT", "15")
        try:
            return ggml._converter()
        except InstallError as error:
            pytest.skip(f"the source of llama-cpp-python cannot be had: {error}")


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("file_type", [0, 1])
def test_an_old_file_is_converted_loaded_and_generates(tmp_path: Path, file_type: int) -> None:
    old = practice_ggml(tmp_path / "tiny.ggmlv3.bin", file_type=file_type)
    with pytest.raises(ModelFileError, match="convert_ggml"):
        LlamaCpp(model_path=old)
    new = convert_ggml(old, eps=1e-5, context_length=128)
    assert new == tmp_path / "tiny.ggmlv3.gguf" and not leftovers(tmp_path)
    info = inspect_model(new)
    assert info.quantization == ("F32", "F16")[file_type]
    assert (info.n_layers, info.n_embd, info.n_ctx_train, info.n_vocab) == (2, 64, 128, 271)
    epsilon = info.metadata["llama.attention.layer_norm_rms_epsilon"]
    assert epsilon == pytest.approx(1e-5)
    with LlamaCpp(model_path=new, n_gpu_layers=0, max_tokens=8, temperature=0) as llm:
        llm.invoke("hello the")
        assert llm.last_timings.generated_tokens == 8


@pytest.mark.usefixtures("converter")
def test_arguments_of_the_converter(tmp_path: Path) -> None:
    old = practice_ggml(tmp_path / "gqa.bin", heads=4, kv_heads=2)
    new = convert_ggml(old, tmp_path / "new.gguf", gqa=2, name="My model", desc="of 2023")
    info = inspect_model(new)
    assert info.n_kv_heads == (2, 2) and info.name == "My model"
    assert info.metadata["general.description"] == "of 2023"
    assert info.n_ctx_train == 2048  # the converter's default
    with pytest.raises(ModelFileError, match="gqa must divide"):
        convert_ggml(old, overwrite=True, gqa=3)
    with pytest.raises(ModelFileError, match="exists already"):
        convert_ggml(old, new)
    with pytest.raises(ValueError, match="eps must be more than 0"):
        convert_ggml(old, eps=0)


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": 2, "file_type": 2}, "changed in GGJTv3"),
        ({"magic": b"fmgg", "version": 1, "file_type": 2}, "changed in GGJTv2"),
        ({"version": 9}, "unexpected GGJT file version 9"),
    ],
)
def test_files_too_old_or_new_are_refused(
    tmp_path: Path, options: dict[str, int], words: str
) -> None:
    old = practice_ggml(tmp_path / "old.bin", **options)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=words):
        convert_ggml(old)
    assert [path.name for path in tmp_path.iterdir()] == ["old.bin"]


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("magic", [b"lmgg", b"fmgg"])
def test_unquantized_files_of_the_oldest_formats_convert(tmp_path: Path, magic: bytes) -> None:
    old = practice_ggml(
        tmp_path / "oldest.bin", magic=magic, version=None if magic == b"lmgg" else 1
    )
    assert inspect_model(convert_ggml(old)).n_layers == 2


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated_files_leave_nothing(tmp_path: Path, share: float) -> None:
    raw = practice_ggml(tmp_path / "whole.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(ModelFileError, match="damaged"):
        convert_ggml(tmp_path / "cut.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.bin", "whole.bin"]


def test_what_is_no_old_file_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="GGUF already"):
        convert_ggml(tiny)
    (tmp_path / "page.bin").write_text("<!doctype html>")
    with pytest.raises(ModelFileError, match="not an old GGML file: it is a web page"):
        convert_ggml(tmp_path / "page.bin")
    with pytest.raises(ModelFileError, match="cannot be read"):
        convert_ggml(tmp_path / "absent.bin")


def test_without_source_and_network_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    old = practice_ggml(tmp_path / "old.bin")
    with pytest.raises(InstallError):
        convert_ggml(old)
    assert not (tmp_path / "old.gguf").exists()
