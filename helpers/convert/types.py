"""The types that a model can be quantized to, with the bits that each stores per weight."""

from __future__ import annotations

import difflib

from helpers.models.formats import FILE_TYPES

NUMBERS = {name: number for number, name in FILE_TYPES.items()}

# Bits per weight of the type that most tensors get (size of a block x 8 / its values).
BITS = {
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_1": 6.0,
    "Q5_K_M": 5.5,
    "Q5_K_S": 5.5,
    "Q5_0": 5.5,
    "Q4_1": 5.0,
    "Q4_K_M": 4.5,
    "Q4_K_S": 4.5,
    "Q4_0": 4.5,
    "IQ4_NL": 4.5,
    "IQ4_XS": 4.25,
    "Q3_K_L": 3.4375,
    "Q3_K_M": 3.4375,
    "Q3_K_S": 3.4375,
    "IQ3_M": 3.4375,
    "IQ3_S": 3.4375,
    "Q2_K": 2.625,
}
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})

_MATRIX = (
    "needs an importance matrix, which llama.cpp's own tools make (llama-imatrix, then "
    "llama-quantize)"
)
_TRAINED = "is for models that were trained in it"
_REFUSED = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"),
        _MATRIX,
    ),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0"), _TRAINED),
}


def find_type(name: str) -> str:
    """Return the type as llama.cpp writes it, whatever the case.

    Raises:
        ValueError: There is no such type (with the nearest names), or it cannot be made here.
    """
    if not isinstance(name, str):
        raise TypeError(f"type must be a name such as 'Q4_K_M', not {name!r}")
    wanted = name.strip().upper().replace("-", "_")
    if wanted in BITS:
        return wanted
    offered = ", ".join(BITS)
    if wanted in _REFUSED:
        raise ValueError(f"{wanted} {_REFUSED[wanted]}. Take one of {offered}.")
    near = difflib.get_close_matches(wanted, BITS, n=3, cutoff=0.5)
    # "Q4_K" is what people say for the whole family, and is nearest to none of its members.
    near = [known for known in BITS if wanted and known.startswith(wanted)] or near
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"There is no type {name!r}. {hint}The types are {offered}.")


def check_step(source: str, bits: float, wanted: str, allow_requantize: bool) -> str:
    """Check a step from one type to another, and say what it costs.

    Args:
        source: The file's type.
        bits: Bits per weight of the file, for a type that is not in `BITS`.
        wanted: The type to make.
        allow_requantize: The user knows and wants it all the same.

    Returns:
        A remark on the result; empty if there is nothing to say.

    Raises:
        ValueError: The step makes no sense, or has to be asked for with `allow_requantize=True`.
    """
    if source == wanted:
        raise ValueError(f"The file is {source} already. Copy it, or choose another type.")
    before, after = BITS.get(source, bits), BITS[wanted]
    if source in UNQUANTIZED and after < before:
        return ""
    if after >= before:
        remark = (
            f"{wanted} stores {after:g} bits per weight and the file is {source} ({before:.4g} "
            "bits): going up makes it larger, and what was rounded away does not come back"
        )
    else:
        remark = (
            f"the file is {source}, so it was rounded once already: requantized to {wanted} it "
            "loses more than the unquantized original would"
        )
    if not allow_requantize:
        raise ValueError(
            f"This makes no sense for a model to use: {remark}. Quantize the F16 or BF16 file of "
            "the model instead, or pass allow_requantize=True to do it all the same."
        )
    return remark
