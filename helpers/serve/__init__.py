"""One model for many: the engine behind OpenAI's protocol, and more than one machine.

Loaded when first used: the server's libraries are an extra (`serve`), which a notebook that only
asks a server does without.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.serve.app import make_app as make_app
    from helpers.serve.background import serve as serve
    from helpers.serve.rpc import lend as lend
    from helpers.serve.settings import KeyLimits as KeyLimits
    from helpers.serve.settings import ServeSettings as ServeSettings

_MODULE_OF = {
    "KeyLimits": "settings",
    "ServeSettings": "settings",
    "lend": "rpc",
    "make_app": "app",
    "serve": "background",
}

__all__ = ["KeyLimits", "ServeSettings", "lend", "make_app", "serve"]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
