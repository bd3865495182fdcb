"""`ModelChooser`: from "what do I have" to "this file, this quantization, this context"."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets
import psutil

from helpers.models import Recommendation
from helpers.models.recommendation import PURPOSES
from helpers.native import devices
from helpers.widgets.choice import Choice, choose, code_for, video_memory
from helpers.widgets.shell import picture

_GIB = 2**30
_WIDE = widgets.Layout(width="560px", max_width="100%")
_LABEL = {"description_width": "150px"}
# Jupyter's and Voilà's own letters and line height would tear the lines apart.
_PRE = '<pre style="font-family:monospace;line-height:1.35">'
CONTEXTS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)


class ModelChooser:
    """Sliders for a machine's memory; a table and bars of the models that fit it, with reasons.

    Show it as the last line of a cell. All parts can be reached and changed with the keyboard, or
    from code: `chooser.ram.value = 32`.

    Attributes:
        ram: Slider: memory of the machine in GiB.
        vram: Slider: memory of the graphics card in GiB, 0 without one.
        unified: Checkbox: the GPU's memory is a part of the RAM, as on Apple silicon.
        purpose: Dropdown: what the model is for.
        context: Slider: tokens of context.
        pick: Dropdown: one of the models that fit; the best at first.
        message: One sentence, or what went wrong.
        choice: What is shown, as data; None after an error.

    Args:
        ram_gib: Memory to begin with; None: this machine's.
        vram_gib: Memory of the graphics card to begin with; None: this machine's.
        unified: That memory is a part of the RAM; None: if this machine's is.
        purpose: Purpose to begin with.
        n_ctx: Tokens of context to begin with.

    >>> from helpers import ModelChooser
    >>> chooser = ModelChooser(ram_gib=16, vram_gib=8)
    """

    def __init__(
        self,
        ram_gib: float | None = None,
        vram_gib: float | None = None,
        purpose: str = "chat",
        n_ctx: int = 4096,
        unified: bool | None = None,
    ) -> None:
        ram = psutil.virtual_memory().total / _GIB if ram_gib is None else ram_gib
        own_vram, own_unified = video_memory(devices())
        vram = own_vram if vram_gib is None else vram_gib
        self.ram = _slider("RAM, GiB", ram, 256)
        self.vram = _slider("video memory, GiB", vram, 192)
        self.unified = widgets.Checkbox(
            value=own_unified if unified is None else unified,
            description="the GPU's memory is a part of the RAM",
            indent=False,
        )
        self.purpose = widgets.Dropdown(
            options=PURPOSES, value=purpose, description="purpose", layout=_WIDE, style=_LABEL
        )
        self.context = widgets.SelectionSlider(
            options=[(f"{n:,} tokens", n) for n in sorted({*CONTEXTS, n_ctx})],
            value=n_ctx,
            description="context",
            continuous_update=False,
            layout=_WIDE,
            style=_LABEL,
        )
        self.pick = widgets.Dropdown(options=[], description="take", layout=_WIDE, style=_LABEL)
        self.message = widgets.HTML()
        self.table = widgets.HTML()
        self.plot = widgets.HTML()
        self.code = widgets.HTML()
        self.choice: Choice | None = None
        self._picked: str | None = None
        self._updating = False
        controls = [self.ram, self.vram, self.unified, self.purpose, self.context]
        self.box = widgets.VBox(
            [*controls, self.message, self.plot, self.pick, self.code, self.table]
        )
        self._update()
        for control in controls:
            control.observe(self._update, names="value")
        self.pick.observe(self._pick_changed, names="value")

    @property
    def chosen(self) -> Recommendation | None:
        """The recommendation that is picked, or None if nothing fits."""
        fitting = self.choice.fitting if self.choice else ()
        return next((one for one in fitting if one.name == self.pick.value), None)

    def _update(self, _change: object = None) -> None:
        try:
            self.choice = choose(
                self.ram.value,
                self.vram.value,
                self.purpose.value,
                self.context.value,
                unified=self.unified.value,
            )
            figure = self.choice.figure() if self.choice.fitting else None
            table = self.choice.table() if self.choice.fitting else ""
            said = _status(self.choice.message)
        except Exception as error:
            # An exception in a callback would vanish in a log that nobody reads.
            self.choice, figure, table = None, None, ""
            said = _status(f"This did not work: {error}")
        self.plot.value = picture(figure) if figure is not None else ""
        self.table.value = table
        self.message.value = said
        names = [one.name for one in self.choice.fitting] if self.choice else []
        self._updating = True
        self.pick.options = names
        if names:  # the best, unless the reader has picked another
            self.pick.value = self._picked if self._picked in names else names[0]
        self._updating = False
        self._show_code()

    def _pick_changed(self, change: dict[str, Any]) -> None:
        if not self._updating:
            self._picked = change["new"]
            self._show_code()

    def _show_code(self) -> None:
        one = self.chosen
        self.code.value = f"{_PRE}{html.escape(code_for(one))}</pre>" if one else ""

    def __str__(self) -> str:
        return str(self.choice) if self.choice else "nothing to show: see chooser.message"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(self.box._repr_mimebundle_(**options))
        # Where a notebook is only read there are no widgets: the text says the same.
        bundle["text/plain"] = str(self)
        return bundle


def _slider(label: str, value: float, most: int) -> Any:
    rounded = round(value * 2) / 2
    return widgets.FloatSlider(
        value=rounded,
        min=0,
        max=max(most, rounded),
        step=0.5,
        description=label,
        readout_format=".1f",
        continuous_update=False,
        layout=_WIDE,
        style=_LABEL,
    )


def _status(text: str) -> str:
    """Text that a screen reader reads out when it changes."""
    return f'<p role="status" aria-live="polite"><b>{html.escape(text)}</b></p>'
