"""Headers whose values are of odd kinds: an answer or a `ModelFileError`, nothing raw."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest

from helpers import HelpersError, format_prompt, inspect_model, predict_memory
from helpers.models import verdict
from helpers.models.formats import words
from tests.models.gguf_builders import Draft, tiny_llama


def _array(inner: int, code: str, *values: Any) -> tuple[int, bytes]:
    return 9, struct.pack(f"<IQ{len(values)}{code}", inner, len(values), *values)


ODD = (
    (8, struct.pack("<Q", 3) + b"abc"),
    (8, struct.pack("<Q", 0)),
    (9, struct.pack("<IQQ", 8, 1, 2) + b"xy"),
    _array(4, "I"),
    _array(4, "I", 1, 2, 3),
    _array(6, "f", float("nan"), float("nan")),
    _array(5, "i", -1, -1),
    (5, struct.pack("<i", -1)),
    (4, struct.pack("<I", 2**32 - 1)),
    (10, struct.pack("<Q", 2**64 - 1)),
    (11, struct.pack("<q", -(2**63))),
    (6, struct.pack("<f", float("nan"))),
    (12, struct.pack("<d", float("inf"))),
    (7, b"\1"),
)
FURTHER = words(
    """
    attention.key_length attention.value_length attention.sliding_window expert_count
    attention.sliding_window_pattern expert_used_count expert_group_count nextn_predict_layers
    rope.scaling.type rope.dimension_count_swa attention.key_length_swa vocab_size ssm.conv_kernel
    ssm.inner_size ssm.state_size ssm.group_count full_attention_interval attention.causal
    attention.shared_kv_layers attention.key_length_mla pooling_type
    """
)
GENERAL = words(
    """
    general.license general.languages general.name general.file_type general.alignment
    tokenizer.ggml.bos_token_id tokenizer.ggml.scores tokenizer.chat_template split.count split.no
    """
)


@pytest.mark.parametrize("architecture", ["llama", "jamba", "gemma3n"])
def test_every_odd_value_of_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(verdict, "_ask", lambda *_: "refuses it")
    base = Draft(tiny_llama(tmp_path / "tiny.gguf").read_bytes())
    for entry in base.keys:
        entry[0] = entry[0].replace(b"llama.", f"{architecture}.".encode())
    base.set_text("general.architecture", architecture)
    keys = [entry[0].decode() for entry in base.keys if b"." in entry[0]]
    own = [key for key in keys if key.startswith(f"{architecture}.")]
    own += [
        f"{architecture}.{name}" for name in sorted(FURTHER) if f"{architecture}.{name}" not in own
    ]
    path = tmp_path / "odd.gguf"
    refused = 0
    for key in [*own, *(sorted(GENERAL) if architecture == "llama" else ())]:
        kept = [entry for entry in base.keys if entry[0] != key.encode()]
        for kind, raw in ODD:
            base.keys, whole = [*kept, [key.encode(), kind, raw]], base.keys
            base.write(path)
            base.keys = whole
            for check in (True, False):
                try:
                    info = inspect_model(path, check=check)
                except HelpersError:
                    refused += 1
                    continue
                assert str(info) and info._repr_html_() and info.weight_bytes
                with contextlib.suppress(HelpersError):
                    format_prompt("hi", info)
                if check:
                    with contextlib.suppress(HelpersError):
                        predict_memory(path, n_ctx=128)
    assert refused > 100


@pytest.mark.parametrize("timeout", [1e10, float("inf"), float("nan"), -1, "5", True, None])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout="):
        format_prompt("hi", timeout=timeout)
