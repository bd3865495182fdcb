"""Is this file a model that llama.cpp can load? Asked before anything native sees it.

llama.cpp answers damaged files with an exception without a cause, and some with an abort that takes
the process along. Everything here reads the header only; the weights themselves are not read.
"""

from __future__ import annotations

import difflib
import functools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.errors import ModelFileError
from helpers.models.cursor import file_error, shorten
from helpers.models.formats import REMOVED_TENSOR_TYPES, TENSOR_TYPES, part_names
from helpers.models.header import Header, Tensor, read_header
from helpers.models.plausible import find_implausible
from helpers.models.sniff import HEAD_BYTES, describe_foreign_file
from helpers.models.verdict import Doubt, NotAccepted, uphold

# ggml's CPU buffers want tensors at multiples of this (TENSOR_ALIGNMENT in ggml-impl.h).
NATIVE_ALIGNMENT = 32
MAX_TENSOR_NAME = 63
MAX_ALIGNMENT = 2**16


def check_model_file(path: str | os.PathLike[str]) -> None:
    """Check that a file is a whole GGUF model which llama.cpp can load.

    Reads the header only (about 0.1 s with the embedded model's vocabulary of 49,152 tokens,
    whatever the size of the file). Where the header has something that `helpers` does not know,
    such as a new architecture, the installed llama.cpp decides, in a process of its own (half a
    second, once for each file). For a model split into parts give the first part: the others are
    checked with it.

    Embedding models pass, which a `LlamaCpp` refuses as they make no text. And whatever is not of
    a kind that the header alone proves good, a `LlamaCpp` tries in a process of its own before it
    loads it the first time: llama.cpp may refuse it in a way that ends that process.

    Args:
        path: The file. `~` is expanded.

    Raises:
        ModelFileError: What is wrong with the file and what to do about it.

    Example:
        >>> from helpers import check_model_file, default_model
        >>> check_model_file(default_model())
    """
    checked_header(path)


def checked_header(path: str | os.PathLike[str]) -> tuple[Header, ...]:
    """Check a model and return the headers of its parts (one, if it is not split)."""
    file = Path(path).expanduser().absolute()
    _file_state(file)
    return _checked(file, fingerprint(file))


def fingerprint(file: Path) -> tuple[tuple[int, int] | None, ...]:
    """Sizes and times of a file and of its other parts: what a kept result is valid for."""
    states: list[tuple[int, int] | None] = []
    for name in part_names(file.name):
        try:
            state = (file.parent / name).stat()
            states.append((state.st_size, state.st_mtime_ns))
        except OSError:
            states.append(None)
    return tuple(states)


@functools.lru_cache(maxsize=4)
def _checked(file: Path, valid_for: tuple[tuple[int, int] | None, ...]) -> tuple[Header, ...]:
    header = checked_layout(file)
    headers = (header, *_other_parts(header))
    tensors = [tensor for part in headers for tensor in part.tensors]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise file_error(file, "is damaged: two tensors have the same name")
    problem = uphold(find_implausible(header, tensors), file, valid_for)
    if problem is not None:
        kind = NotAccepted if isinstance(problem, Doubt) else ModelFileError
        raise file_error(file, problem, kind)
    return headers


def _file_state(file: Path) -> os.stat_result:
    """Return the state of a file, or say why it cannot be a model."""
    try:
        state = file.stat()
    except FileNotFoundError:
        raise ModelFileError(f"There is no file {file}. {_names_nearby(file)}") from None
    except OSError as error:
        raise file_error(
            file, f"cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from error
    if stat.S_ISDIR(state.st_mode):
        raise file_error(file, f"is a folder, not a model file. {_names_inside(file)}")
    if not stat.S_ISREG(state.st_mode):
        raise file_error(file, "is not an ordinary file. Give the path of a .gguf file.")
    if state.st_size == 0:
        raise file_error(file, "is empty (0 bytes)")
    return state


def _gguf_names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".gguf")
    except OSError:
        return []


def _names_nearby(file: Path) -> str:
    folder = file.parent
    if not folder.is_dir():
        existing = next((parent for parent in folder.parents if parent.is_dir()), folder)
        return f"Its folder does not exist either; the path exists up to {existing}."
    names = _gguf_names(folder)
    near = difflib.get_close_matches(file.name, names, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if names:
        return f"That folder has: {_listed(names)}."
    return f"The folder {folder} has no .gguf file at all. Check the path."


def _names_inside(folder: Path) -> str:
    names = _gguf_names(folder)
    if not names:
        return "It has no .gguf file in it. Give the path of a .gguf file."
    return f"Give the path of a file in it: {_listed(names)}."


def _listed(names: Sequence[str]) -> str:
    rest = names[8:]
    return ", ".join(names[:8]) + (f" and {len(rest)} more" if rest else "")


def checked_layout(file: Path) -> Header:
    """Return the header of a file, after the checks that do not depend on what is in it.

    Raises:
        ModelFileError: It is not a whole GGUF file that llama.cpp reads.
    """
    size = _file_state(file).st_size
    try:
        with file.open("rb") as stream:
            foreign = describe_foreign_file(stream.read(HEAD_BYTES), size)
        if foreign is not None:
            raise file_error(file, f"cannot be loaded: {foreign}")
        header = read_header(file)
    except OSError as error:
        raise file_error(
            file, f"cannot be read: {error.strerror or error}. Check its permissions."
        ) from error
    for problem in _layout_problems(header):
        raise file_error(file, problem)
    return header


def _layout_problems(header: Header) -> Iterator[str]:
    """What keeps llama.cpp's gguf.cpp from reading a file, the first thing first."""
    if header.byte_order == "big":
        yield (
            "was written for big-endian machines: its bytes are swapped. Download the ordinary "
            "(little-endian) file, or convert it with `gguf-convert-endian FILE little` of the "
            "package gguf."
        )
    if header.version == 1:
        yield (
            "is GGUF version 1 (August 2023), which llama.cpp no longer reads. Download a newer "
            "file of the same model."
        )
    if header.version not in (2, 3):
        yield (
            f"says it is GGUF version {header.version}; helpers reads versions 2 and 3. If the "
            "file is not damaged, upgrade helpers and llama-cpp-python."
        )
    key = "general.alignment"
    value = header.get(key, header.alignment)
    kind = header.type_of(key) if key in header else ("u32",)
    if kind != ("u32",) or value <= 0 or value & (value - 1):
        yield (f"is damaged: {key} is {value!r} ({' of '.join(kind)}), which is not a power of two")
    if value % NATIVE_ALIGNMENT or value > MAX_ALIGNMENT:
        yield (
            f"aligns its tensors to {value} bytes; llama.cpp needs a multiple of "
            f"{NATIVE_ALIGNMENT} up to {MAX_ALIGNMENT:,}. Convert the model again without {key}."
        )
    for key in header:
        if header.type_of(key) == ("array", "array"):
            yield (
                f"has {shorten(key)!r}, an array of arrays, which llama.cpp does not read. Convert "
                "the model again without that key."
            )
    expected = 0
    end = header.data_offset
    for tensor in header.tensors:
        problem = _tensor_problem(tensor) or _offset_problem(header, tensor, expected)
        if problem is not None:
            yield f"is damaged: tensor {tensor.name!r} {problem}"
        end = header.data_offset + tensor.offset + tensor.n_bytes
        expected = tensor.offset + -(-tensor.n_bytes // header.alignment) * header.alignment
    missing = end - header.file_size
    if missing > 0 and header.tensors:
        yield (
            f"is truncated: {missing:,} bytes are missing. It has {header.file_size:,} bytes and "
            f"should have {end:,} ({100 * header.file_size / end:.1f} % are there). The download "
            "or copy was interrupted: start it again."
        )


def _tensor_problem(tensor: Tensor) -> str | None:
    name = tensor.name.encode("utf-8", "surrogateescape")
    if not 0 < len(name) <= MAX_TENSOR_NAME or b"\0" in name:
        return "has an unusable name"
    if tensor.type_id in REMOVED_TENSOR_TYPES:
        return (
            f"is stored as {REMOVED_TENSOR_TYPES[tensor.type_id]}, which llama.cpp no longer "
            "reads. Download a newer file of the same model (Q4_0 is repacked when it is loaded)."
        )
    known = TENSOR_TYPES.get(tensor.type_id)
    if not tensor.shape or 0 in tensor.shape:
        return f"has no elements (shape {tensor.shape})"
    if tensor.n_elements >= 2**63:
        return f"has the absurd shape {tensor.shape}"
    if known is not None and tensor.shape[0] % known.block:
        return (
            f"has rows of {tensor.shape[0]:,} values, but {tensor.type} stores them in blocks "
            f"of {known.block}"
        )
    return None


def _offset_problem(header: Header, tensor: Tensor, expected: int) -> str | None:
    if tensor.offset == expected:
        return None
    if tensor.offset % header.alignment:
        return f"begins at byte {tensor.offset:,}, not a multiple of {header.alignment}"
    if tensor.offset < expected:
        return (
            f"begins at byte {tensor.offset:,} of the data and overlaps the tensor before it, "
            f"which ends at {expected:,}"
        )
    return (
        f"begins at byte {tensor.offset:,} of the data instead of {expected:,}: the tensors are "
        f"out of order or one is missing"
    )


def _other_parts(header: Header) -> list[Header]:
    """Find and check the other parts of a split model (llama.cpp's gguf-split)."""
    count = header.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return []
    file = header.path
    number = header.get("split.no", -1)
    names = part_names(file.name)
    if len(names) != count:
        raise file_error(
            file,
            f"is one of {count} parts, but its name does not say so. llama.cpp finds the "
            f"others by name: give it back its name, such as model-00001-of-{count:05d}.gguf.",
        )
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing:
        raise file_error(
            file,
            f"is one of {count} parts, and {len(missing)} of them "
            f"{'is' if len(missing) == 1 else 'are'} missing in {file.parent}: "
            f"{_listed(missing)}. Download all parts into the same folder.",
        )
    if number != 0 or file.name != names[0]:
        raise file_error(
            file,
            f"is not the first of its {count} parts. Give {names[0]}: llama.cpp finds the "
            "others by itself.",
        )
    parts = [checked_layout(file.parent / name) for name in names[1:]]
    for index, part in enumerate(parts, start=1):
        if part.get("split.no") != index or part.get("split.count") != count:
            raise file_error(
                part.path,
                f"says it is part {part.get('split.no')!r} of "
                f"{part.get('split.count')!r}, not part {index} of {count}",
            )
    total = header.get("split.tensors.count")
    found = sum(len(part.tensors) for part in (header, *parts))
    if total != found:
        raise file_error(
            file,
            f"announces {total!r} tensors in {count} parts, but {found} were found: the "
            "parts do not belong together. Download all of them again.",
        )
    return parts
