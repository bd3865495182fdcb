"""Every kind of wrong file: an exception with the cause and what to do, before anything native."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from helpers import HelpersError, ModelFileError, check_model_file, default_model
from helpers.models.formats import ARCHITECTURES
from tests.models.gguf_builders import Draft, sparse_model, split_model, tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def test_whole_models_pass(tiny: Path) -> None:
    check_model_file(default_model())
    check_model_file(str(tiny))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02")


# What lies in the file, and the words that the message must have.
FOREIGN: dict[str, tuple[bytes | Callable[[Path], object], tuple[str, ...]]] = {
    "empty": (b"", ("is empty", "Download")),
    "html": (b"\n\n<!DOCTYPE html><html>Not found</html>", ("web page (HTML)", "arrow")),
    "html with mark": (b"\xef\xbb\xbf<html><body>", ("web page (HTML)",)),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4683073184\n",
        ("Git LFS pointer", "4,683,073,184", "git lfs pull"),
    ),
    "ggml": (b"lmgg" + bytes(100), ("GGML", "convert_ggml")),
    "ggmf": (b"fmgg" + bytes(100), ("GGMF", "convert_ggml")),
    "ggjt": (b"tjgg" + bytes(100), ("GGJT", "convert_ggml")),
    "ggla": (b"algg" + bytes(100), ("GGLA", "adapter", "convert_lora_to_gguf.py")),
    "pytorch": (_zip, ("PyTorch", "GGUF")),
    "pickle": (b"\x80\x02}q\x00." + bytes(50), ("pickle",)),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"GGUF" * 100)), ("gzip", "gunzip")),
    "safetensors": (
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}      ' * 2,
        ("safetensors", "convert_hf_to_gguf.py"),
    ),
    "json": (b'{"error":"Access to model is restricted"}', ("JSON", "Access to model")),
    "zeros": (bytes(5000), ("full of zeros", "interrupted")),
    "text": (b"hello there, this is text", ("not GGUF", "hell")),
    "swapped": (b"FUGG" + bytes(100), ("swapped",)),
    "only magic": (b"GGUF\x03\x00\x00\x00", ("damaged",)),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), ("version 1", "newer file")),
    "version 9": (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), ("version 9", "upgrade")),
    "counts": (
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
        ("claims 1,152,921,504,606,846,976 tensors",),
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_kinds_of_files_are_named(tmp_path: Path, kind: str) -> None:
    content, words = FOREIGN[kind]
    path = tmp_path / "model.gguf"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(ModelFileError) as caught:
        check_model_file(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message


def test_missing_files_name_what_is_there(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "SmolLM2-135M.Q4_1.gguf").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"Did you mean SmolLM2-135M\.Q4_1\.gguf"):
        check_model_file(tmp_path / "SmolLM2-135M-Q4_1.gguf")
    with pytest.raises(ModelFileError, match=r"That folder has: SmolLM2"):
        check_model_file(tmp_path / "zzz.gguf")
    with pytest.raises(ModelFileError, match="the path exists up to"):
        check_model_file(tmp_path / "no" / "where" / "x.gguf")
    with pytest.raises(ModelFileError, match=r"is a folder.*SmolLM2"):
        check_model_file(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="not an ordinary file"):
        check_model_file(tmp_path / "pipe.gguf")


@pytest.mark.skipif(
    sys.platform == "win32" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="the superuser may read everything",
)
def test_unreadable_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    with pytest.raises(ModelFileError, match="permissions"):
        check_model_file(path)


def test_truncation_says_how_many_bytes_are_missing(tmp_path: Path, tiny: Path) -> None:
    data = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[:-1000])
    with pytest.raises(ModelFileError, match=r"1,000 bytes are missing.*should have"):
        check_model_file(path)
    path.write_bytes(data[:5000])
    with pytest.raises(ModelFileError, match="the file ends after"):
        check_model_file(path)


def test_big_endian_files_say_how_to_convert(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "big.gguf", endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(ModelFileError, match=r"big-endian.*gguf-convert-endian"):
        check_model_file(path)


def _misalign(draft: Draft) -> None:
    draft.tensors[3][3] += 4


def _overlap(draft: Draft) -> None:
    draft.tensors[3][3] -= 32


def _gap(draft: Draft) -> None:
    draft.tensors[3][3] += 32


def _swap(draft: Draft) -> None:
    draft.tensors[2], draft.tensors[5] = draft.tensors[5], draft.tensors[2]


def _twice(draft: Draft) -> None:
    draft.tensors[3][0] = draft.tensors[4][0]


def _rename_architecture(name: str) -> Callable[[Draft], object]:
    def edit(draft: Draft) -> None:
        draft.set_text("general.architecture", name)
        for entry in draft.keys:
            entry[0] = entry[0].replace(b"llama.", name.encode() + b".")

    return edit


def _shape(index: int, shape: list[int]) -> Callable[[Draft], object]:
    def edit(draft: Draft) -> None:
        draft.tensors[index][1] = shape
        draft.place_tensors()

    return edit


def _type(index: int, kind: int) -> Callable[[Draft], object]:
    def edit(draft: Draft) -> None:
        draft.tensors[index][2] = kind
        draft.place_tensors()

    return edit


def _without_tensor(name: bytes) -> Callable[[Draft], object]:
    def edit(draft: Draft) -> None:
        draft.tensors = [tensor for tensor in draft.tensors if tensor[0] != name]
        draft.place_tensors()

    return edit


def _repeat_token(draft: Draft) -> None:
    entry = draft.key("tokenizer.ggml.tokens")
    # Letters from U+0021 on follow each other: "!" becomes a second '"'.
    entry[2] = entry[2].replace(struct.pack("<Q", 1) + b"!", struct.pack("<Q", 1) + b'"')


def _nested(draft: Draft) -> None:
    draft.keys.append([b"x.nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQB", 0, 1, 7)])


def _only(name: str, value: int) -> Callable[[Draft], object]:
    return lambda draft: draft.set(f"llama.{name}", "I", 4, value)


# A change to a good file, and the words that the message must have.
DAMAGES: dict[str, tuple[Callable[[Draft], object], str]] = {
    "misaligned": (_misalign, "not a multiple of 32"),
    "overlapping": (_overlap, "overlaps the tensor before it"),
    "gap": (_gap, "out of order or one is missing"),
    "out of order": (_swap, "out of order or one is missing"),
    "same name": (_twice, "two tensors have the same name"),
    "alignment 0": (lambda d: d.set("general.alignment", "I", 4, 0), "not a power of two"),
    "alignment 48": (lambda d: d.set("general.alignment", "I", 4, 48), "not a power of two"),
    "alignment 8": (lambda d: d.set("general.alignment", "I", 4, 8), "multiple of 32"),
    "alignment text": (lambda d: d.set_text("general.alignment", "32"), "not a power of two"),
    "nested array": (_nested, "array of arrays"),
    "unknown type": (_type(2, 99), "unknown type 99"),
    "removed type": (_type(2, 31), "Q4_0_4_4"),
    "rows not of blocks": (_shape(3, [65, 64]), "the shape (65, 64)"),
    "no elements": (_shape(3, [64, 0]), "no elements"),
    "absurd shape": (_shape(3, [2**40, 2**40]), "absurd shape"),
    "norm in 16 bits": (_type(2, 1), "not as F32"),
    "integers": (_type(4, 26), "type I32"),
    "no architecture": (lambda d: d.remove("general.architecture"), "what model it is"),
    "unknown architecture": (_rename_architecture("llamma"), "does not know (it knows llama"),
    "projector": (_rename_architecture("clip"), "image encoder"),
    "no layers": (_only("block_count", 0), "outside 1 to 512"),
    "too many layers": (_only("block_count", 4000), "outside 1 to 512"),
    "more layers than tensors": (_only("block_count", 5), "no tensor of layer 2"),
    "fewer layers than tensors": (_only("block_count", 1), "tensors of layer 1"),
    "layers of text": (lambda d: d.set_text("llama.block_count", "2"), "type str, not u32"),
    "no context length": (lambda d: d.remove("llama.context_length"), "context_length' is missing"),
    "no heads": (_only("attention.head_count", 0), "no attention heads"),
    "odd heads": (_only("attention.head_count", 3), "no multiple"),
    "part of the head rotated": (_only("rope.dimension_count", 8), "its heads have 16"),
    "wrong width": (_only("embedding_length", 128), "values (llama.embedding_length)"),
    "wrong feed-forward": (_only("feed_forward_length", 97), "ask for (64, 97)"),
    "wrong KV heads": (_only("attention.head_count_kv", 1), "ask for (64, 16)"),
    "odd part of the head rotated": (_only("rope.dimension_count", 7), "must be an even number"),
    "nothing rotated": (_only("rope.dimension_count", 0), "but its heads have 16"),
    "key and value heads": (_only("attention.value_length", 32), "not every architecture allows"),
    "more experts used than there": (_only("expert_used_count", 2), "numbers of experts"),
    "rope scaling": (lambda d: d.set_text("llama.rope.scaling.type", "magic"), "yarn"),
    "missing tensor": (_without_tensor(b"blk.1.ffn_up.weight"), "'blk.1.ffn_up.weight' is missing"),
    "repeated token": (_repeat_token, "appears in its vocabulary twice"),
    "no tokens": (lambda d: d.remove("tokenizer.ggml.tokens"), "vocabulary"),
    "no merges": (lambda d: d.remove("tokenizer.ggml.merges"), "needs 'tokenizer.ggml.merges'"),
    "no tokenizer": (lambda d: d.remove("tokenizer.ggml.model"), "no vocabulary"),
    "unknown tokenizer": (lambda d: d.set_text("tokenizer.ggml.model", "w2v"), "tokenizer 'w2v'"),
    "unknown pre": (lambda d: d.set_text("tokenizer.ggml.pre", "new"), "pre-tokenizer 'new'"),
    "bytes without tokens": (
        lambda d: d.set_text("tokenizer.ggml.model", "llama"),
        "without tokens for",
    ),
    "split, wrong name": (lambda d: d.set("split.count", "H", 2, 3), "does not say so"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_headers_are_named(tmp_path: Path, tiny: Path, damage: str) -> None:
    edit, words = DAMAGES[damage]
    draft = Draft(tiny.read_bytes())
    edit(draft)
    path = draft.write(tmp_path / "damaged.gguf")
    with pytest.raises(ModelFileError) as caught:
        check_model_file(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, HelpersError)


def test_an_undamaged_draft_passes(tmp_path: Path, tiny: Path) -> None:
    # The table above proves nothing if writing a draft alone already breaks the file.
    check_model_file(Draft(tiny.read_bytes()).write(tmp_path / "same.gguf"))


def test_split_models(tmp_path: Path, tiny: Path) -> None:
    paths = split_model(tiny, tmp_path)
    check_model_file(paths[0])
    with pytest.raises(ModelFileError, match=r"not the first.*m-00001-of-00003"):
        check_model_file(paths[1])
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[:-10])
    with pytest.raises(ModelFileError, match=r"m-00003-of-00003\.gguf is truncated: 10 bytes"):
        check_model_file(paths[0])
    paths[2].unlink()
    with pytest.raises(ModelFileError, match=r"1 of them is missing.*m-00003-of-00003"):
        check_model_file(paths[0])


def test_parts_of_different_models_do_not_pass(tmp_path: Path, tiny: Path) -> None:
    paths = split_model(tiny, tmp_path)
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(ModelFileError, match="says it is part 1"):
        check_model_file(paths[0])


def test_a_changed_file_is_checked_again(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "changing.gguf"
    path.write_bytes(tiny.read_bytes())
    check_model_file(path)
    path.write_bytes(tiny.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match="truncated"):
        check_model_file(path)


def test_known_architectures_are_those_of_the_library() -> None:
    # The library lists what its converters write: nearly all of what llama.cpp reads.
    library = set(gguf.MODEL_ARCH_NAMES.values())
    assert len(ARCHITECTURES & library) > 100
    assert {"llama", "qwen3", "gemma3", "gpt-oss", "mamba", "phi3"} <= ARCHITECTURES


# Found by damaging headers of other architectures: each of these ended llama.cpp, or never ended.
OTHERS: dict[str, tuple[str, Callable[[Draft], object], str]] = {
    "nothing rotated": (
        "gemma3",
        lambda d: d.set("gemma3.rope.dimension_count", "I", 4, 0),
        "must be an even number",
    ),
    "more rotated than there is": (
        "gemma3",
        lambda d: d.set("gemma3.rope.dimension_count", "I", 4, 4096),
        "must be an even number",
    ),
    "a layer without queries": (
        "phi3",
        _without_tensor(b"blk.1.attn_q.weight"),
        "layer 1 has no tensor for its queries",
    ),
    "recurrent weights in 16 bits": (
        "mamba",
        lambda d: d.tensors.append([b"blk.0.ssm_d", [64], 1, d.place_tensors()]),
        "'blk.0.ssm_d' is stored as F16",
    ),
}


@pytest.mark.parametrize("damage", OTHERS)
def test_damages_of_other_architectures(tmp_path: Path, damage: str) -> None:
    architecture, edit, words = OTHERS[damage]
    path = sparse_model(
        tmp_path / "model.gguf",
        architecture,
        layers=2, width=64, heads=4, kv_heads=2, feed_forward=96, tokens=300, type_id=0,
        output_type_id=0,
    )  # fmt: skip
    check_model_file(path)
    draft = Draft(path.read_bytes())
    edit(draft)
    with pytest.raises(ModelFileError) as caught:
        check_model_file(draft.write(tmp_path / "damaged.gguf"))
    assert words in str(caught.value)
