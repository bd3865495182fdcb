"""The engine in a child process: whatever ends that process, the kernel lives on."""

from helpers.isolation.core import IsolatedCore, make_core

__all__ = ["IsolatedCore", "make_core"]
