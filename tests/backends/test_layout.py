"""Another llama-cpp-python than `helpers` knows is refused before any structure is handed over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import llama_cpp
import pytest

from helpers import InstallError
from helpers.native.library import _check_layout


class Shifted:
    """The real module, but the defaults of a context read as from a shifted structure."""

    def __getattr__(self, name: str) -> Any:
        return getattr(llama_cpp.llama_cpp, name)

    def llama_context_default_params(self) -> Any:
        native = llama_cpp.llama_cpp.llama_context_default_params()
        native.n_batch, native.n_ubatch = native.n_ubatch, native.n_batch
        return native


def test_the_installed_one_is_known() -> None:
    _check_layout(llama_cpp)


@pytest.mark.parametrize("version", ["0.2.90", "0.3.16", "0.3.29", "0.4.0", "1.0.0"])
def test_another_version_is_refused_with_the_fix(version: str) -> None:
    other = SimpleNamespace(__version__=version, llama_cpp=llama_cpp.llama_cpp)
    with pytest.raises(InstallError, match=rf"{version} has a layout .* 0\.3\.30 .* 0\.4\.0"):
        _check_layout(other)


def test_a_shifted_structure_is_refused_whatever_the_version_says() -> None:
    other = SimpleNamespace(__version__=llama_cpp.__version__, llama_cpp=Shifted())
    with pytest.raises(InstallError, match="pip install --force-reinstall"):
        _check_layout(other)
