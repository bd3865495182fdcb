"""The environment summary: complete, silent about who and where, and it never raises."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import pytest

import helpers
from helpers import ModelFileError, environment_summary, models, native


def test_summary_shows_what_a_measurement_was_made_with() -> None:
    summary = environment_summary()
    text = str(summary)
    for part in (helpers.__version__, summary.python, summary.llama_cpp_python, summary.model):
        assert part in text
    assert "CPU" in summary.backends
    assert any("(cpu)" in device for device in summary.devices)
    assert summary.cores_usable is not None
    assert 1 <= summary.cores_usable <= summary.cores_physical
    assert summary.memory_gib > 0.1
    assert summary.model == helpers.default_model().name
    assert summary.expect.startswith("135 million weights: ") and summary.expect in text
    assert repr(summary) == text


def test_html_has_the_same_rows() -> None:
    summary = environment_summary()
    html = summary._repr_html_()
    assert html.count("<tr>") == len(str(summary).splitlines())
    assert summary.llama_cpp_python in html


def test_nothing_tells_who_or_where() -> None:
    text = str(environment_summary())
    assert str(Path.home()) not in text
    assert str(Path(helpers.__file__).parent) not in text
    host = socket.gethostname()
    assert len(host) < 4 or host not in text
    user = getpass.getuser()
    assert f"/{user}" not in text


def test_what_is_missing_is_said_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> list[native.Device]:
        raise OSError(f"cannot open {Path.home() / 'lib' / 'libllama.so'} <here>")

    def no_model() -> Path:
        raise ModelFileError("No model is here.\nMore about it.")

    monkeypatch.setattr(native, "devices", no_library)
    monkeypatch.setattr(models, "default_model", no_model)
    summary = environment_summary()
    assert summary.devices == ("unknown: cannot open …libllama.so <here>",)
    assert summary.model == "none: No model is here."
    assert "&lt;here&gt;" in summary._repr_html_()
    assert "cores" in str(summary)
