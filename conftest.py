"""What all tests and examples share: no other machines, the public names, versions on top."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest
from pytest_socket import socket_allow_hosts

# Ray is an extra that not every Python has, and its import warns; their tests import it with care.
# The code of translated notebooks is that of the English ones, which run: tests/test_korean.py.
collect_ignore_glob = ["helpers/serve/cluster_*.py", "notebooks/ko/*"]

_SHOWN = ("llama-cpp-python", "langchain-core", "llguidance", "ipykernel", "nbval")


@pytest.fixture(autouse=True)
def _no_other_machines() -> None:
    """Allow sockets to this machine alone (pytest-socket takes the ban back after each test)."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _example(request: pytest.FixtureRequest) -> None:
    """Let an example of a docstring use the public names, in a folder that may be written to."""
    if isinstance(request.node, pytest.DoctestItem):
        import helpers

        names = {name: getattr(helpers, name) for name in helpers.__all__}
        request.getfixturevalue("doctest_namespace").update(names)
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))


def pytest_report_header() -> list[str]:
    """Say which versions are tested."""
    versions = []
    for name in _SHOWN:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    return [", ".join(versions), f"Python {platform.python_version()} on {platform.platform()}"]
