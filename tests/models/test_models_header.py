"""The header reader against the `gguf` library: same keys, values and tensors."""

from __future__ import annotations

import ctypes
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llama_cpp import _ggml

from helpers import ModelFileError, default_model
from helpers.models.formats import FILE_TYPES, TENSOR_TYPES
from helpers.models.header import read_header
from tests.models.gguf_builders import Draft, tiny_llama

EVERY_VALUE = {
    "u8": (255, gguf.GGUFValueType.UINT8),
    "i8": (-128, gguf.GGUFValueType.INT8),
    "u16": (65_535, gguf.GGUFValueType.UINT16),
    "i16": (-32_768, gguf.GGUFValueType.INT16),
    "u32": (2**32 - 1, gguf.GGUFValueType.UINT32),
    "i32": (-(2**31), gguf.GGUFValueType.INT32),
    "f32": (1.5, gguf.GGUFValueType.FLOAT32),
    "bool": (True, gguf.GGUFValueType.BOOL),
    "u64": (2**64 - 1, gguf.GGUFValueType.UINT64),
    "i64": (-(2**63), gguf.GGUFValueType.INT64),
    "f64": (math.pi, gguf.GGUFValueType.FLOAT64),
}
ARRAYS: dict[str, list[Any]] = {
    "short_ints": [1, -2, 3],
    "long_ints": list(range(1000)),
    "floats": [0.5, -1.25],
    "long_floats": [n / 4 for n in range(500)],
    "truths": [True, False, True],
    "words": ["", "한국어", "emoji 🦙", "line\nbreak"],
    "long_words": [f"word {n} ünï" for n in range(300)],
}


def write_everything(path: Path, endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE) -> Path:
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    for name, (value, kind) in EVERY_VALUE.items():
        writer.add_key_value(f"test.{name}", value, kind)
    for name, items in ARRAYS.items():
        writer.add_array(f"test.{name}", items)
    writer.add_string("test.ключ", "значение 値")
    writer.add_string("test.long_text", "tōkyō " * 100_000)
    writer.add_tensor("a.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.add_tensor("b.weight", np.ones((3, 4, 5), np.float16))
    packed = np.zeros((4, 2 * 18), np.uint8)
    writer.add_tensor("c.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same_as_library(path: Path) -> None:
    header, oracle = read_header(path), gguf.GGUFReader(path)
    fields = {k: f for k, f in oracle.fields.items() if not k.startswith("GGUF.")}
    assert list(header) == list(fields)
    for key, field in fields.items():
        assert header[key] == field.contents(), key
    assert len(header.tensors) == len(oracle.tensors) > 0
    for ours, theirs in zip(header.tensors, oracle.tensors, strict=True):
        assert ours.name == theirs.name
        assert list(ours.shape) == [int(size) for size in theirs.shape]
        assert ours.type == theirs.tensor_type.name
        assert header.data_offset + ours.offset == theirs.data_offset
        assert ours.n_bytes == theirs.n_bytes
        assert ours.n_elements == theirs.n_elements
    assert header.version == int(oracle.fields["GGUF.version"].contents())


def test_embedded_model_reads_as_the_library_reads_it() -> None:
    assert_same_as_library(default_model())


def test_every_value_type_reads_as_written(tmp_path: Path) -> None:
    path = write_everything(tmp_path / "all.gguf")
    assert_same_as_library(path)
    header = read_header(path)
    for name, (value, _) in EVERY_VALUE.items():
        assert header[f"test.{name}"] == value
        assert header.type_of(f"test.{name}") == (name,)
    for name, items in ARRAYS.items():
        assert header[f"test.{name}"] == items
        assert header.length(f"test.{name}") == len(items)
    assert header.item("test.long_words", 299) == "word 299 ünï"
    assert header.item("test.long_ints", 512) == 512
    assert header.item("test.words", 1) == "한국어"
    with pytest.raises(IndexError):
        header.item("test.long_words", 300)
    assert header.raw_strings("test.long_words") == [text.encode() for text in ARRAYS["long_words"]]
    assert "nothing" not in header


def test_version_2_has_the_same_layout(tmp_path: Path) -> None:
    path = write_everything(tmp_path / "v2.gguf")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 2)
    path.write_bytes(data)
    assert read_header(path).version == 2
    assert_same_as_library(path)


def test_big_endian_files_are_read_too(tmp_path: Path) -> None:
    little = read_header(write_everything(tmp_path / "little.gguf"))
    big = read_header(write_everything(tmp_path / "big.gguf", gguf.GGUFEndian.BIG))
    assert (little.byte_order, big.byte_order) == ("little", "big")
    assert dict(big) == dict(little)
    assert big.tensors == little.tensors


def test_nested_and_empty_arrays(tmp_path: Path) -> None:
    draft = Draft(tiny_llama(tmp_path / "tiny.gguf").read_bytes())
    nested = struct.pack("<IQ", 9, 3)
    nested += struct.pack("<IQ2i", 5, 2, 1, 2)
    nested += struct.pack("<IQ", 8, 1) + struct.pack("<Q", 3) + b"abc"
    nested += struct.pack("<IQ", 9, 1) + struct.pack("<IQf", 6, 1, 0.5)
    draft.keys.append([b"test.nested", 9, nested])
    draft.keys.append([b"test.empty", 9, struct.pack("<IQ", 4, 0)])
    header = read_header(draft.write(tmp_path / "nested.gguf"))
    assert header["test.nested"] == [[1, 2], ["abc"], [[0.5]]]
    assert header["test.empty"] == []
    assert header.type_of("test.nested") == ("array", "array")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    draft = Draft(tiny_llama(tmp_path / "tiny.gguf").read_bytes())
    draft.keys.append([b"test.deep", 9, struct.pack("<IQ", 9, 1) * 2000])
    with pytest.raises(ModelFileError, match="nested too deeply"):
        read_header(draft.write(tmp_path / "deep.gguf"))


def test_strings_longer_than_the_window(tmp_path: Path) -> None:
    long = b"x" * 3_000_000
    items = [b"first", long, b"", b"last"] + [b"%d" % n for n in range(100)]
    raw = b"".join(struct.pack("<Q", len(item)) + item for item in items)
    draft = Draft(tiny_llama(tmp_path / "tiny.gguf").read_bytes())
    draft.keys.append([b"test.long", 9, struct.pack("<IQ", 8, len(items)) + raw])
    header = read_header(draft.write(tmp_path / "long.gguf"))
    assert header.raw_strings("test.long") == items
    assert header["test.long"][1] == long.decode()
    assert len(header.tensors) == len(draft.tensors)


@pytest.mark.parametrize("gigabytes", [1, 40])
def test_size_of_the_file_costs_nothing(tmp_path: Path, gigabytes: int) -> None:
    draft = Draft(default_model().read_bytes()[:1_785_664])
    tensor = draft.tensors[-1]
    tensor[1] = [576, gigabytes * 2**30 // 4 // 576]
    tensor[2] = 0
    draft.place_tensors()
    path = draft.write(tmp_path / "large.gguf")
    assert path.stat().st_size > gigabytes * 2**30
    tracemalloc.start()
    header = read_header(path)
    tokens = header["tokenizer.ggml.tokens"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tokens) == 49_152
    assert peak < 100 * 2**20
    path.unlink()


def test_a_file_that_shrinks_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = write_everything(tmp_path / "all.gguf")
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelFileError, match="became shorter"):
        header["test.long_words"]


def test_tensor_types_are_those_of_ggml() -> None:
    # ggml itself is the authority (the gguf library 0.19 has another size for Q8_1).
    ggml = _ggml.libggml
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    for number, ours in TENSOR_TYPES.items():
        name = ggml.ggml_type_name(number).decode()
        assert name.lower() == ours.name.lower()
        assert ggml.ggml_blck_size(number) == ours.block, name
        assert ggml.ggml_type_size(number) == ours.size, name
    # Every type that ggml has and that is not in the table must be one that it took out.
    for number in range(max(TENSOR_TYPES) + 1):
        assert (number in TENSOR_TYPES) == (ggml.ggml_type_size(number) > 0), number


def test_file_types_are_those_of_the_library() -> None:
    for kind in gguf.LlamaFileType:
        name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        if kind != gguf.LlamaFileType.GUESSED:
            assert FILE_TYPES[int(kind)] == name
