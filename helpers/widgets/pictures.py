"""Figures inside widgets."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(figure: Figure) -> str:
    """A figure as a picture that says in words what it shows."""
    png, size = figure._repr_png_()  # type: ignore[attr-defined]
    data = base64.b64encode(png).decode()
    words = html.escape(getattr(figure, "description", ""), quote=True)
    return (
        f'<img alt="{words}" width="{size["width"]}" style="max-width:100%" '
        f'src="data:image/png;base64,{data}">'
    )
