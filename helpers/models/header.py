"""A bounded reader for the header of a GGUF file: keys, values and the table of tensors.

The `gguf` library needs seconds for a header with a vocabulary, because it makes an object of every
token. This reader walks over long arrays and reads them on demand. It never maps the file (a mapped
file that shrinks kills the process), reads a window of one megabyte at a time, and refuses numbers
that no real model has, so that a damaged header costs neither memory nor time.

Format: `docs/gguf.md` of ggml, versions 2 and 3, in either byte order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from helpers.models.cursor import WINDOW, Cursor, file_error
from helpers.models.formats import (
    ARRAY,
    DEFAULT_ALIGNMENT,
    GGUF_MAGIC,
    STRING,
    TENSOR_TYPES,
    UINT32,
    VALUE_FORMATS,
    VALUE_NAMES,
)

# Bounds, several times what the largest published models have (260,000 tokens, 520,000 merges,
# about 3,000 tensors); the cursor bounds the whole header.
MAX_KEYS = 65_536
MAX_TENSORS = 131_072
MAX_STRINGS = 2**22
MAX_NAME_BYTES = 65_535
MAX_DEPTH = 4
MAX_BLOCKS = 2**16

# Longer values stay in the file until they are asked for.
_EAGER_ITEMS = 64
_EAGER_TEXT = 2**18


class Array(NamedTuple):
    """Where a long array lies in the file.

    Attributes:
        item_type: Number of the items' value type in the GGUF specification.
        length: Number of items.
        offset: Byte at which the first item begins.
    """

    item_type: int
    length: int
    offset: int


class Text(NamedTuple):
    """Where a long string lies in the file.

    Attributes:
        offset: Byte at which its length stands.
        length: Bytes of the text.
    """

    offset: int
    length: int


class Tensor(NamedTuple):
    """One row of a GGUF file's table of tensors.

    Attributes:
        name: Such as `blk.0.attn_q.weight`.
        shape: Elements by dimension, the fastest-running first.
        type: Name of the storage type, such as `Q4_K`; `type 99` for an unknown number.
        type_id: Its number in ggml.
        offset: Bytes from the beginning of the data section.
        n_bytes: Bytes that the values take; the room up to the next tensor if the type is unknown.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    type_id: int
    offset: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """Number of values."""
        product = 1
        for size in self.shape:
            product *= size
        return product


class Header(Mapping[str, Any]):
    """What the header of a GGUF file says: a mapping from key to value.

    Long arrays are not in memory: `header[key]` reads them from the file when asked, `length(key)`
    tells their length at no cost.

    Attributes:
        path: The file.
        version: Version of the format, 2 or 3.
        byte_order: "little" or "big".
        file_size: Bytes of the whole file.
        alignment: Bytes to which tensors are aligned.
        data_offset: Byte at which the tensors' data begins.
        tensors: The table of tensors, in the file's order.
    """

    def __init__(self, path: Path, version: int, byte_order: str, file_size: int) -> None:
        self.path = path
        self.version = version
        self.byte_order = byte_order
        self.file_size = file_size
        self.alignment = DEFAULT_ALIGNMENT
        self.data_offset = 0
        self.tensors: tuple[Tensor, ...] = ()
        self._values: dict[str, Any] = {}
        self._types: dict[str, tuple[int, ...]] = {}

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, Array):
            return list(self._items(value))
        if isinstance(value, Text):
            with self.path.open("rb") as file:
                return self._cursor(file, value.offset).string(key)
        return value

    def __contains__(self, key: object) -> bool:
        # Mapping would read the whole array to answer this.
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def type_of(self, key: str) -> tuple[str, ...]:
        """Return the type of a value, such as `("u32",)` or `("array", "str")`."""
        return tuple(VALUE_NAMES.get(code, str(code)) for code in self._types[key])

    def length(self, key: str) -> int:
        """Return the number of items of an array, without reading it."""
        value = self._values[key]
        return value.length if isinstance(value, Array) else len(self[key])

    @property
    def architecture(self) -> str:
        """What llama.cpp calls this kind of model; empty if the file does not say."""
        return str(self.get("general.architecture", ""))

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.count("block_count", largest=MAX_BLOCKS)

    @property
    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        tokens = "tokenizer.ggml.tokens"
        return self.length(tokens) if tokens in self else self.count("vocab_size")

    def hyper(self, name: str, default: Any = 0) -> Any:
        """Return the value of one of the architecture's keys, such as `block_count`."""
        return self.get(f"{self.architecture}.{name}", default)

    def count(self, name: str, default: int = 0, largest: int = 2**32 - 1) -> int:
        """Return the value of one of the architecture's keys that is a number of something.

        Raises:
            ModelFileError: It is not a whole number from 0 to `largest`.
        """
        return self._whole(name, self.hyper(name, default), largest)

    def count_or_none(self, name: str) -> int | None:
        """Return a `count`; None where the key is missing, or holds something else."""
        value = self.hyper(name, None)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return value if whole else None

    def per_layer(self, name: str, default: Any = 0) -> list[int]:
        """Return a number by layer that the file gives once for all layers, or for each.

        Raises:
            ModelFileError: One is not a whole number from 0 on.
        """
        value = self.hyper(name, default)
        if isinstance(value, list):
            return [self._whole(name, one) for one in value]
        return [self._whole(name, value)] * self.n_layers

    def _whole(self, name: str, value: Any, largest: int = 2**32 - 1) -> int:
        # GGUF's numbers are typed, and a count is sometimes stored as i32 or u64.
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
            key = f"{self.architecture}.{name}"
            raise file_error(
                self.path, f"is damaged: {key!r} is {value!r}, not a whole number up to {largest:,}"
            )
        return value

    @property
    def n_heads(self) -> list[int]:
        """Attention heads by layer."""
        return self.per_layer("attention.head_count")

    @property
    def n_kv_heads(self) -> list[int]:
        """Heads for keys and values by layer."""
        return self.per_layer("attention.head_count_kv", self.hyper("attention.head_count"))

    def raw_strings(self, key: str) -> list[bytes]:
        """Return an array of strings as bytes, faster than decoding each of them."""
        value = self._values[key]
        if not isinstance(value, Array):
            return [text.encode("utf-8", "surrogateescape") for text in value]
        with self.path.open("rb") as file:
            return self._cursor(file, value.offset).raw_strings(value.length, f"the array {key!r}")

    def item(self, key: str, index: int) -> Any:
        """Return one item of an array, walking over those before it.

        Raises:
            IndexError: The array has no such item.
        """
        value = self._values[key]
        if not isinstance(value, Array):
            return value[index]
        if not 0 <= index < value.length:
            raise IndexError(index)
        with self.path.open("rb") as file:
            cursor = self._cursor(file, value.offset)
            if value.item_type == STRING:
                cursor.raw_strings(index, key, keep=False)
                return cursor.string(key)
            _, code, size = VALUE_FORMATS[value.item_type]
            cursor.skip(index * size, key)
            return cursor.number(code, key)

    def _cursor(self, file: BinaryIO, offset: int) -> Cursor:
        cursor = Cursor(file, self.file_size, self.path)
        cursor.order = "<" if self.byte_order == "little" else ">"
        cursor.pos = offset
        return cursor

    def _items(self, array: Array) -> Iterator[Any]:
        with self.path.open("rb") as file:
            yield from _read_items(self._cursor(file, array.offset), array.item_type, array.length)


def _read_items(cursor: Cursor, item_type: int, count: int) -> Iterator[Any]:
    if item_type == STRING:
        for text in cursor.raw_strings(count, "an array"):
            yield text.decode("utf-8", "surrogateescape")
        return
    _, code, size = VALUE_FORMATS[item_type]
    while count:
        # A piece at a time: the window stays small however long the array is.
        piece = min(count, WINDOW // size)
        cursor.require(piece * size, "an array")
        buffer, start = cursor.window(piece * size)
        yield from struct.unpack_from(f"{cursor.order}{piece}{code}", buffer, start)
        cursor.pos += piece * size
        count -= piece


def _read_array(cursor: Cursor, key: str, depth: int = 1) -> tuple[Any, tuple[int, ...]]:
    what = f"the array {key!r}"
    item_type = cursor.number("I", what)
    count = cursor.number("Q", what)
    if item_type == ARRAY:
        if depth >= MAX_DEPTH:
            raise cursor.fail(f"{what} is nested too deeply")
        cursor.require(count * 12, what)
        cursor.spend(count * 64, what)
        parts = [_read_array(cursor, key, depth + 1)[0] for _ in range(count)]
        return parts, (ARRAY, ARRAY)
    types = (ARRAY, item_type)
    if item_type == STRING:
        if count > MAX_STRINGS:
            raise cursor.fail(f"{what} claims {count:,} strings")
        cursor.require(count * 8, what)
    elif item_type in VALUE_FORMATS:
        cursor.require(count * VALUE_FORMATS[item_type][2], what)
    else:
        raise cursor.fail(f"{what} has items of the unknown type {item_type}")
    if count <= _EAGER_ITEMS or depth > 1:
        cursor.spend(count * 32, what)
        return list(_read_items(cursor, item_type, count)), types
    array = Array(item_type, count, cursor.pos)
    if item_type == STRING:
        cursor.raw_strings(count, what, keep=False)
    else:
        cursor.skip(count * VALUE_FORMATS[item_type][2], what)
    return array, types


def _read_text(cursor: Cursor, key: str) -> str | Text:
    start = cursor.pos
    length = cursor.number("Q", f"the length of {key!r}")
    cursor.require(length, f"the text of {key!r}")
    if length > _EAGER_TEXT:
        cursor.skip(length, f"the text of {key!r}")
        return Text(start, length)
    cursor.spend(length * 2, f"the text of {key!r}")
    cursor.pos = start
    return cursor.string(f"the text of {key!r}")


def _read_values(cursor: Cursor, header: Header, count: int) -> None:
    for index in range(count):
        key = cursor.string(f"the name of key {index + 1} of {count}", MAX_NAME_BYTES)
        if not key or key in header._values:
            raise cursor.fail(
                f"key {index + 1} of {count} is " + (f"{key!r} again" if key else "empty")
            )
        cursor.spend(len(key) * 2, f"key {index + 1}")
        value_type = cursor.number("I", f"the type of {key!r}")
        value: Any
        types: tuple[int, ...]
        if value_type == STRING:
            value, types = _read_text(cursor, key), (STRING,)
        elif value_type == ARRAY:
            value, types = _read_array(cursor, key)
        elif value_type in VALUE_FORMATS:
            code = VALUE_FORMATS[value_type][1]
            value = cursor.number(code, f"the value of {key!r}")
            types = (value_type,)
        else:
            raise cursor.fail(
                f"the value of {key!r} (key {index + 1} of {count}) "
                f"has the unknown type {value_type}"
            )
        header._values[key] = value
        header._types[key] = types


def _read_tensor(cursor: Cursor, index: int, count: int) -> Tensor:
    what = f"tensor {index + 1} of {count}"
    name = cursor.string(f"the name of {what}", MAX_NAME_BYTES)
    n_dims = cursor.number("I", what)
    if n_dims > 4:
        raise cursor.fail(f"{what} ({name!r}) claims {n_dims} dimensions; at most 4 exist")
    shape = tuple(cursor.number("Q", what) for _ in range(n_dims))
    type_id = cursor.number("I", what)
    offset = cursor.number("Q", what)
    known = TENSOR_TYPES.get(type_id)
    if known is None:
        return Tensor(name, shape, f"type {type_id}", type_id, offset, 0)
    tensor = Tensor(name, shape, known.name, type_id, offset, 0)
    return tensor._replace(n_bytes=tensor.n_elements // known.block * known.size)


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file, at a cost that does not depend on its size.

    The embedded model's 1.8 MB of header take about 30 ms and 1 MiB. Whether llama.cpp can use the
    file is another question: see `check_model_file`.

    Args:
        path: An existing file that begins with `GGUF`.

    Raises:
        ModelFileError: The file is not GGUF, or its header is damaged or absurd; the message says
            at which byte.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        cursor = Cursor(file, size, path)
        if size < 24 or file.read(4) != GGUF_MAGIC:
            raise cursor.fail("it does not begin with a GGUF header")
        cursor.pos = 4
        version = cursor.number("I", "the version")
        byte_order = "little"
        if version and version & 0xFFFF == 0:
            # A small number that looks huge: the file was written in the other byte order.
            byte_order, cursor.order, cursor.pos = "big", ">", 4
            version = cursor.number("I", "the version")
        header = Header(path, version, byte_order, size)
        if version not in (2, 3):
            return header  # the layout is not known: `check_model_file` says what that means
        n_tensors = cursor.number("Q", "the number of tensors")
        n_keys = cursor.number("Q", "the number of keys")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise cursor.fail(f"it claims {n_tensors:,} tensors and {n_keys:,} keys")
        _read_values(cursor, header, n_keys)
        header.tensors = tuple(_read_tensor(cursor, i, n_tensors) for i in range(n_tensors))
        if header._types.get("general.alignment") == (UINT32,):
            header.alignment = header._values["general.alignment"] or DEFAULT_ALIGNMENT
        header.data_offset = -(-cursor.pos // header.alignment) * header.alignment
        ends = [*(tensor.offset for tensor in header.tensors[1:]), size - header.data_offset]
        header.tensors = tuple(
            tensor
            if tensor.type_id in TENSOR_TYPES
            else tensor._replace(n_bytes=max(end - tensor.offset, 0))
            for tensor, end in zip(header.tensors, ends, strict=False)
        )
    return header


def header_bytes(path: str | os.PathLike[str]) -> bytes:
    """The beginning of a GGUF file, up to the tensors' data: what a server tells of its model.

    Written to a file, it is read as any model is by `inspect_model(…, check=False)`: all keys, the
    vocabulary, the chat template and the table of tensors are there, and no weight.

    Args:
        path: The file; of a split model the first part.

    Raises:
        ModelFileError: It is not GGUF, or its header is damaged.
        OSError: It cannot be read.
    """
    header = read_header(Path(path).expanduser().absolute())
    if not header.data_offset:
        raise file_error(header.path, f"is GGUF version {header.version}, whose layout is unknown")
    with header.path.open("rb") as file:
        return file.read(header.data_offset).ljust(header.data_offset, b"\0")
