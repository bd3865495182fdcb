"""Thin ipywidgets shells over the rest of `helpers`: nothing is computed here.

Core widgets only, so that they work wherever Jupyter does, with the keyboard, and on any theme.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from helpers.errors import InstallError as _InstallError

if TYPE_CHECKING:
    from helpers.widgets.chat_box import ChatBox
    from helpers.widgets.chooser import ModelChooser
    from helpers.widgets.class_progress import ClassProgress
    from helpers.widgets.document_chat import DocumentChat
    from helpers.widgets.playground import GrammarPlayground
    from helpers.widgets.tuner import GpuTuner

_MODULE_OF = {
    "ChatBox": "chat_box",
    "ClassProgress": "class_progress",
    "DocumentChat": "document_chat",
    "GpuTuner": "tuner",
    "GrammarPlayground": "playground",
    "ModelChooser": "chooser",
}

__all__ = [
    "ChatBox",
    "ClassProgress",
    "DocumentChat",
    "GpuTuner",
    "GrammarPlayground",
    "ModelChooser",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _find_spec("ipywidgets") is None:
        raise _InstallError(
            'Widgets need the package ipywidgets. Run: python -m pip install "ipywidgets>=8.1,<9"'
        )
    value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
