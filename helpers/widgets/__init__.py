"""Thin ipywidgets shells over the rest of `helpers`: nothing is computed here.

Core widgets only, so that they work wherever Jupyter does, with the keyboard, and on any theme.
"""

from importlib.util import find_spec as _find_spec

from helpers.errors import InstallError as _InstallError

if _find_spec("ipywidgets") is None:
    raise _InstallError(
        'Widgets need the package ipywidgets. Run: python -m pip install "ipywidgets>=8.1,<9"'
    )

from helpers.widgets.chooser import ModelChooser
from helpers.widgets.playground import GrammarPlayground

__all__ = ["GrammarPlayground", "ModelChooser"]
