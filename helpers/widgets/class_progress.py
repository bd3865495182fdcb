"""`ClassProgress`: who has reached what in a class, for the teacher's own notebook."""

from __future__ import annotations

import html
import os
import threading
from typing import Any

import ipywidgets as widgets

from helpers.checks import check_range
from helpers.lessons import ClassStanding, class_standing


class ClassProgress:
    """A table with a row for each learner, and a button that reads it anew.

    It shows what `class_standing` says; `helpers.lessons.progress` has how learners take part.

    Args:
        folder: Where the learners' files are.
        every_s: Seconds between two readings while *auto* is ticked.

    Attributes:
        refresh_button: Button: read it now.
        auto: Checkbox: read it again and again.
        table: The table, or what went wrong.
        standing: What is shown, as data; None after an error.

    >>> progress = ClassProgress(".")
    >>> progress.standing.best
    ()
    """

    def __init__(self, folder: str | os.PathLike[str], *, every_s: float = 10) -> None:
        self._folder = folder
        self._every_s = float(check_range("every_s", every_s, 0.5, 86_400.0, " seconds"))
        self._stop = threading.Event()
        self.standing: ClassStanding | None = None
        self.refresh_button = widgets.Button(description="Refresh")
        self.auto = widgets.Checkbox(description=f"auto, every {every_s:g} s", indent=False)
        self.table = widgets.HTML()
        self.box = widgets.VBox([widgets.HBox([self.refresh_button, self.auto]), self.table])
        self.refresh_button.on_click(self.refresh)
        self.auto.observe(self._auto_changed, names="value")
        self.refresh()

    def refresh(self, _click: object = None) -> None:
        """Read the folder and show it."""
        try:
            self.standing = class_standing(self._folder)
            self.table.value = self.standing._repr_html_()
        except Exception as error:  # it would vanish in a callback
            self.standing = None
            said = html.escape(f"This did not work: {error}")
            self.table.value = f'<p role="status" aria-live="polite"><b>{said}</b></p>'

    def close(self) -> None:
        """End the readings and remove the widget."""
        self.auto.value = False
        self.box.close()

    def _auto_changed(self, change: dict[str, Any]) -> None:
        self._stop.set()
        if change["new"]:
            self._stop = threading.Event()
            keep = threading.Thread(target=self._keep, args=(self._stop,), daemon=True)
            keep.start()

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(self._every_s):
            self.refresh()

    def __str__(self) -> str:
        return str(self.standing) if self.standing else "nothing to show: see progress.table"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(self.box._repr_mimebundle_(**options))
        bundle["text/plain"] = str(self)  # where a notebook is only read there are no widgets
        return bundle
