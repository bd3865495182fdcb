r"""Tokens as text, where a token may be a part of a character, and back.

The form is that of OpenAI's log probabilities: `bytes:\xf0\x9f` for bytes that are no text alone.
"""

from __future__ import annotations

import re

_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
_NUMBER = re.compile(r"token_id:\d+")


def token_text(raw: bytes) -> str:
    r"""The text of a token; its bytes in a readable form where they are not whole characters.

    >>> token_text(b"yes"), token_text("🦙".encode()[:2])
    ('yes', 'bytes:\\xf0\\x9f')
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def token_bytes(text: str) -> bytes | None:
    r"""The bytes of a token from its text; None where it stands for a token by its number.

    >>> token_bytes("yes"), token_bytes(r"bytes:\xf0\x9f"), token_bytes("token_id:7")
    (b'yes', b'\xf0\x9f', None)
    """
    if _NUMBER.fullmatch(text):
        return None
    parts = _BYTES.fullmatch(text)
    return bytes.fromhex(parts[1].replace("\\x", "")) if parts else text.encode()
