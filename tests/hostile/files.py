"""Files that are no model, or not the model they were."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from helpers.native.context import Context
from tests.hostile.base import (
    FRANCE,
    MODEL,
    NO_END,
    Gives,
    Raises,
    Uses,
    damaged,
    error,
    make,
    works,
    written,
)
from tests.models.gguf_builders import tiny_llama

use = Uses("files")


def _file(name: str, path: Callable[[], str], *words: str, posix: bool = False) -> None:
    use(name, Raises("ModelFileError", *words), posix=posix)(lambda: make(model_path=path()))


def _pipe() -> str:
    os.mkfifo("m.gguf")
    return "m.gguf"


def _link_to_itself() -> str:
    Path("m.gguf").symlink_to("m.gguf")
    return "m.gguf"


def _written(name: str, raw: bytes, *words: str) -> None:
    _file(name, lambda: written(raw), *words)


_file("missing", lambda: "missing.gguf", "no file", "missing.gguf")

_file("a folder", lambda: ".", "folder")

_file("a path with NUL", lambda: "a\0b.gguf", "cannot be the path")

_written("empty", b"", "empty")

_written("a page instead of a model", b"<!DOCTYPE html><html>" + b" " * 4096, "HTML")

_written(
    "a Git LFS pointer",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
    "LFS",
)

_written("old GGML", b"tjgg\x03\x00\x00\x00" + b"\x00" * 4096, "convert")

_written("another magic", b"NOPE" * 1024, "not GGUF", "NOPE")

_written("zeros", b"\x00" * 8192, "zero")

_written("absurd counts", b"GGUF\x03\x00\x00\x00" + b"\xff" * 4096, "m.gguf")

_file(
    "truncated",
    lambda: written(Path(MODEL).read_bytes()[:50_000_000]),
    "truncated",
    "bytes are missing",
)

_file(
    "unknown architecture",
    lambda: damaged(lambda raw: raw.replace(b"llama", b"lamma", 1)),
    "architecture",
    "lamma",
)

_file("a device without end", lambda: "/dev/zero", "not an ordinary file", posix=True)

_file("a pipe", _pipe, "not an ordinary file", posix=True)

_file("a link to itself", _link_to_itself, "cannot be", posix=True)


@use("any byte of the header flipped", Gives(True))
def any_byte_of_the_header_flipped() -> object:
    head = Path(MODEL).read_bytes()
    draw = random.Random(3)
    result = set()
    for _ in range(12):
        place = draw.randrange(1500)
        changed = bytearray(head)
        changed[place] ^= 1 << draw.randrange(8)
        Path("m.gguf").write_bytes(changed)
        answer = error(lambda: type(make(model_path="m.gguf").invoke("x")).__name__)
        result.add(answer.split(":")[0])
    return result <= {"ModelFileError", "str"}


@use("replaced while it is loaded", Gives((True, "ModelFileError")), posix=True)
def replaced_while_it_is_loaded() -> object:
    shutil.copy(MODEL, "m.gguf")
    llm = make(model_path="m.gguf")
    Path("other").write_bytes(b"rubbish")
    Path("other").replace("m.gguf")
    return works(llm), error(lambda: make(model_path="m.gguf")).split(":")[0]


@use("replaced by a bad one, and closed by one of two", Gives((True, True)), posix=True)
def replaced_by_a_bad_one_and_closed_by_one_of_two() -> object:
    shutil.copy(MODEL, "m.gguf")
    one, two = make(model_path="m.gguf"), make(model_path="m.gguf")
    Path("other").write_bytes(b"GGUF" + b"\xff" * 4096)
    Path("other").replace("m.gguf")
    one.close()
    return works(two), error(lambda: make(model_path="m.gguf")).startswith("ModelFileError")


@use("deleted, and then asked in batches", Gives([True] * 3), posix=True)
def deleted_and_then_asked_in_batches() -> object:
    shutil.copy(MODEL, "m.gguf")
    llm = make(model_path="m.gguf")
    Path("m.gguf").unlink()
    return ["Paris" in answer for answer in llm.batch([FRANCE] * 3)]


def _changed_in_place(change: Callable[[], object]) -> tuple[str, str, bool]:
    """What a call gives after the loaded file was changed, and after it was made whole again."""
    shutil.copy(MODEL, "m.gguf")
    llm = make(model_path="m.gguf")
    works(llm)
    change()
    answers = [error(lambda: llm.invoke("x", max_tokens=2)) for _ in range(2)]
    shutil.copy(MODEL, "m.gguf")
    return (*(answer.split(":")[0] for answer in answers), works(llm))


@use("cut off in place", Gives(("ModelFileError", "ModelFileError", True)), posix=True)
def cut_off_in_place() -> object:
    return _changed_in_place(lambda: os.truncate("m.gguf", 1 << 20))


@use("emptied in place", Gives(("ModelFileError", "ModelFileError", True)), posix=True)
def emptied_in_place() -> object:
    return _changed_in_place(lambda: Path("m.gguf").open("wb").close())


@use("written to in place", Gives(("ModelFileError", "ModelFileError", True)), posix=True)
def written_to_in_place() -> object:
    return _changed_in_place(lambda: Path("m.gguf").open("r+b").write(b"rubbish"))


@use("cut off in place during a stream", Raises("ModelFileError", "written to"), posix=True)
def cut_off_in_place_during_a_stream() -> object:
    shutil.copy(MODEL, "m.gguf")
    llm = make(model_path="m.gguf", max_tokens=None)
    compute, count = Context._run, 0

    def counted(context, tokens):  # between two decodes, where it can be known
        nonlocal count
        count += 1
        compute(context, tokens)
        if count == 5:
            os.truncate("m.gguf", 1 << 20)

    Context._run = counted
    llm.invoke(FRANCE, logit_bias=NO_END)


def _not_numbers() -> str:
    raw = bytearray(Path(MODEL).read_bytes())
    raw[-(1 << 20) :] = b"\xff" * (1 << 20)
    return written(bytes(raw))


@use("weights that are not numbers", Raises("ModelFileError", "no numbers", "check_tensors"))
def weights_that_are_not_numbers() -> object:
    make(model_path=_not_numbers()).invoke(FRANCE, temperature=0.8)


@use("weights that are not numbers, with a grammar", Raises("ModelFileError", "no numbers"))
def weights_that_are_not_numbers_with_a_grammar() -> object:
    make(model_path=_not_numbers()).invoke(FRANCE, grammar='root ::= "yes" | "no"')


@use("a name that is not ASCII", Gives(True))
def a_name_that_is_not_ascii() -> object:
    Path("모델 ü").mkdir()
    shutil.copy(MODEL, "모델 ü/언어 🦙.gguf")
    return works(make(model_path="모델 ü/언어 🦙.gguf"))


@use("a path from the home folder", Gives(True))
def a_path_from_the_home_folder() -> object:
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(Path.cwd())
    shutil.copy(MODEL, "m.gguf")
    return works(make(model_path="~/m.gguf"))


@use("rubbish as a LoRA adapter", Raises("ModelFileError", "LoRA", "l.gguf"))
def rubbish_as_a_lora_adapter() -> object:
    Path("l.gguf").write_bytes(b"GGUF" + b"\xff" * 999)
    make(lora_path="l.gguf")


@use("a model as a LoRA adapter", Raises("ModelFileError", "LoRA", "adapter"))
def a_model_as_a_lora_adapter() -> object:
    make(lora_path=MODEL)


@use(
    "a LoRA adapter that is not there", Raises("ModelFileError", "no LoRA adapter", "nowhere.gguf")
)
def a_lora_adapter_that_is_not_there() -> object:
    make(lora_path="nowhere.gguf")


@use("an embedding model", Raises("ModelFileError", "embedding model", "eurobert", "no text"))
def an_embedding_model() -> object:
    return make(model_path=tiny_llama(Path("e.gguf"), architecture="eurobert")).invoke("x")


@use("a diffusion model", Raises("ModelFileError", "diffusion model", "llada"))
def a_diffusion_model() -> object:
    return make(model_path=tiny_llama(Path("d.gguf"), architecture="llada")).invoke("x")


@use("heads that do not divide", Raises("ModelFileError", "ended the process", "g.gguf"))
def heads_that_do_not_divide() -> object:
    path = tiny_llama(Path("g.gguf"), architecture="gemma", kv_heads=3)
    return make(model_path=path).invoke("x")


@use("rope factors of another type", Raises("ModelFileError", "rope_freqs", "F16", "F32"))
def rope_factors_of_another_type() -> object:
    path = tiny_llama(
        Path("r.gguf"),
        edit=lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(8, np.float16)),
    )
    return make(model_path=path).invoke("x")


@use("a LoRA adapter of 64-bit floats", Raises("ModelFileError", "LoRA", "F64"))
def a_lora_adapter_of_64_bit_floats() -> object:
    writer = gguf.GGUFWriter("l.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 576)))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((576, 4)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return make(lora_path="l.gguf").invoke("x")
