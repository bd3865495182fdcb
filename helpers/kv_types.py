"""The types that keys and values can be stored in, by name and by number."""

from __future__ import annotations

KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
"""Types that llama.cpp can keep keys and values in (`ggml_type` numbers)."""

_BYTES = {0: 4.0, 1: 2.0, 2: 18 / 32, 3: 20 / 32, 6: 22 / 32, 7: 24 / 32, 8: 34 / 32}
_SAME_SIZE = {20: 2, 30: 1}  # iq4_nl is stored like q4_0, bf16 like f16


def kv_type(name: str, value: str | int | None) -> int | None:
    """Number of a KV cache type given by name ("q8_0") or number (8).

    Args:
        name: What the value is called, for the message.
        value: A name or number of `KV_TYPES`, or None.

    Raises:
        ValueError: There is no such type, or keys and values cannot be kept in it.
    """
    if value is None:
        return None
    number = KV_TYPES.get(value.lower()) if isinstance(value, str) else value
    if number not in KV_TYPES.values() or isinstance(number, bool):
        raise ValueError(f"{name}={value!r} is no KV cache type. Use one of {', '.join(KV_TYPES)}.")
    return number


def bytes_per_value(ggml_type: int | None) -> float:
    """Bytes that one cached value takes, its share of the block's scale included.

    Args:
        ggml_type: A number of `KV_TYPES`; None is llama.cpp's default, f16.
    """
    number = 1 if ggml_type is None else ggml_type
    return _BYTES[_SAME_SIZE.get(number, number)]
