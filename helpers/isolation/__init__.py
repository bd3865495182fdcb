"""The engine in a child process: whatever ends that process, the kernel lives on."""

from helpers.isolation.core import IsolatedCore

__all__ = ["IsolatedCore"]
