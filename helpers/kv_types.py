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
    if type(number) is not int or number not in KV_TYPES.values():
        raise ValueError(
            f"{name}={value!r} is not a KV cache type. Use one of {', '.join(KV_TYPES)}."
        )
    return number
