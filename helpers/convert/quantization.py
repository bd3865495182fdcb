"""`quantize`: fewer bits per weight, by llama.cpp's own quantizer."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers.convert.output import check_room, choose_output, written_whole
from helpers.convert.parent import Progress, run_task
from helpers.convert.types import BITS, NUMBERS, check_step, find_type
from helpers.models import ModelInfo, inspect_model
from helpers.tables import FactSheet

_MIB = 2**20


@dataclass(frozen=True)
class Quantized(FactSheet):
    """What `quantize` made; can be passed wherever a path is wanted.

    Attributes:
        path: The new file.
        type: The recipe that was asked for.
        n_bytes: Size of the new file.
        source_bytes: Size of the file it was made from.
        bits_asked: Bits per weight that the type promises.
        bits_per_weight: Bits per weight that the file really has.
        fallbacks: Tensors that could not be stored in the type meant for them.
        tensor_types: Number of tensors by type, most frequent first.
        seconds: How long it took.
        remark: What to know about the result, or "".
    """

    path: Path = field(repr=False)
    type: str
    n_bytes: int
    source_bytes: int
    bits_asked: float
    bits_per_weight: float
    fallbacks: int
    tensor_types: Mapping[str, int]
    seconds: float
    remark: str

    def __fspath__(self) -> str:
        return str(self.path)

    def rows(self) -> list[tuple[str, str]]:
        """Return what `str()` and the notebook show, as (label, text)."""
        sizes = f"{self.n_bytes / _MIB:,.1f} MiB, from {self.source_bytes / _MIB:,.1f} MiB"
        rows = [
            ("file", self.path.name),
            ("size", sizes),
            ("bits per weight", f"{self.bits_per_weight:.2f} ({self.type}: {self.bits_asked:g})"),
            ("tensors", ", ".join(f"{n} x {kind}" for kind, n in self.tensor_types.items())),
        ]
        if self.fallbacks:
            rows.append(
                ("fallbacks", f"{self.fallbacks}: rows that the type's blocks do not divide")
            )
        if self.remark:
            rows.append(("note", self.remark))
        return rows


def quantize(
    path: str | os.PathLike[str],
    type: str,
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    allow_requantize: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Write a copy of a model with fewer bits per weight.

    llama.cpp's quantizer does it, in a process of its own, on all cores that may be used. The new
    file gets its name only when it is complete and has passed `check_model_file`.

    Args:
        path: A GGUF file, best the F16 or BF16 one; the first part, if it is split (the result is
            one file).
        type: What to store the weights as, such as "Q4_K_M".
        output: File or folder to write to; by default a name with the type, beside `path`.
        overwrite: Replace an existing output.
        allow_requantize: Quantize what is quantized already, or go up to more bits: both lose
            against quantizing the original. The result's `remark` says so.
        progress: Is called with (tensors done, tensors).

    Returns:
        A `Quantized`: path, sizes, the bits per weight really got.

    Raises:
        ValueError: The type is unknown (with the nearest names) or makes no sense for this file, or
            the output is the input.
        ModelFileError: The file cannot be read or quantized, the output exists or has no room.
        EngineCrashed: The process ended, most likely for lack of memory; no file is left.

    Example:
        >>> from helpers import quantize
        >>> quantize("model-F16.gguf", "Q4_K_M")  # doctest: +SKIP
    """
    wanted = find_type(type)
    source = inspect_model(path)
    remark = check_step(source.quantization, source.bits_per_weight, wanted, allow_requantize)
    target = choose_output(source.path, output, _suggest(source.path, wanted), overwrite)
    check_room(target.parent, _at_most(source, wanted))
    started = time.perf_counter()
    with written_whole(target, source.path, overwrite=overwrite) as writing:
        task = {
            "source": str(source.path),
            "target": str(writing.place),
            "number": NUMBERS[wanted],
            "requantize": allow_requantize,
        }
        found = run_task("quantize", task, progress)
    made = writing.info
    assert made is not None
    return Quantized(
        path=target,
        type=wanted,
        n_bytes=made.file_size,
        source_bytes=source.file_size,
        bits_asked=BITS[wanted],
        bits_per_weight=made.bits_per_weight,
        fallbacks=found["fallbacks"],
        tensor_types=made.tensor_types,
        seconds=time.perf_counter() - started,
        remark=remark,
    )


def _suggest(path: Path, wanted: str) -> str:
    """The file's name with the new type in place of the old one.

    >>> _suggest(Path("Tiny.Q8_0.gguf"), "Q4_0"), _suggest(Path("tiny.gguf"), "Q4_0")
    ('Tiny.Q4_0.gguf', 'tiny.Q4_0.gguf')
    """
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    known = sorted(NUMBERS, key=len, reverse=True)
    bare = re.sub(rf"[.-](?:{'|'.join(known)})$", "", stem, flags=re.IGNORECASE)
    joint = stem[len(bare)] if len(bare) < len(stem) else "."
    return f"{bare}{joint}{wanted}.gguf"


def _at_most(source: ModelInfo, wanted: str) -> int:
    """Bytes of the result, on the safe side: recipes give some tensors more bits than others."""
    bits = BITS[wanted]
    total = source.metadata.data_offset
    for tensor in source.tensors:
        if len([size for size in tensor.shape if size > 1]) < 2:
            total += tensor.n_bytes
        elif tensor.name in ("token_embd.weight", "output.weight"):
            total += int(tensor.n_elements * max(bits, 8.5) / 8)
        else:
            total += int(tensor.n_elements * bits * 1.35 / 8)
    return total
