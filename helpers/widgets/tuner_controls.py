"""The controls of `GpuTuner` and where they stand: core widgets, all reached by the Tab key."""

from __future__ import annotations

import os
from typing import Any

import ipywidgets as widgets

from helpers.models import local_models
from helpers.widgets.tuning import BATCHES, KV_CHOICES

_WIDE = widgets.Layout(width="640px", max_width="100%")
_LABEL = {"description_width": "140px"}
_EMBEDDED = "the embedded model"
_PRACTICE_MIB = (
    ("all of this machine's", None),
    ("150 MiB", 150),
    ("100 MiB", 100),
    ("64 MiB", 64),
)
_GOALS = (("generation speed", "eval"), ("prompt speed", "prompt"), ("both", "both"))


class TunerControls:
    """What a reader sees and touches; `GpuTuner` gives it its behaviour.

    Args:
        model: The model to begin with.
        offer_practice: Show the checkbox of the practice accelerator.
    """

    def __init__(self, model: str | os.PathLike[str] | None, *, offer_practice: bool) -> None:
        self.model = widgets.Dropdown(
            options=_models(model), description="model", layout=_WIDE, style=_LABEL
        )
        self.practice = widgets.Checkbox(
            False, description="use the practice accelerator", indent=False
        )
        self.practice_memory = widgets.Dropdown(
            options=_PRACTICE_MIB, description="with the memory", style=_LABEL, disabled=True
        )
        self.layers = widgets.IntSlider(
            value=0, min=0, max=1, description="n_gpu_layers", **_looks()
        )
        self.context = widgets.SelectionSlider(options=[512], description="n_ctx", **_looks())
        self.batch = widgets.SelectionSlider(
            options=BATCHES, value=512, description="n_batch", **_looks()
        )
        self.type_kv = widgets.Dropdown(
            options=KV_CHOICES, description="KV cache type", layout=_WIDE, style=_LABEL
        )
        self.goal = widgets.Dropdown(options=_GOALS, description="best for", style=_LABEL)
        self.measure_button = _button("Measure", "Measure the settings shown, in a trial process")
        self.find_button = _button("Find the best", "Search for the fastest settings that fit")
        self.cancel_button = _button("Cancel", "End what is being measured")
        self.cancel_button.disabled = True
        self.code_button = _button("Copy code", "Show the line of the best settings, to copy")
        self.progress = widgets.FloatProgress(
            value=0.0, min=0.0, max=1.0, layout=widgets.Layout(width="240px")
        )
        self.message = widgets.HTML()
        self.memory = widgets.HTML()
        self.plot = widgets.HTML()
        self.history = widgets.HTML()
        self.code = widgets.Textarea(
            "",
            tooltip="The line to copy: Ctrl+A, Ctrl+C",
            rows=2,
            layout=widgets.Layout(width="640px", max_width="100%", display="none"),
        )
        practice = widgets.HBox([self.practice, self.practice_memory])
        practice.layout.display = "" if offer_practice else "none"
        buttons = [self.measure_button, self.find_button, self.cancel_button, self.code_button]
        self.box = widgets.VBox(
            [
                self.model,
                practice,
                self.layers,
                self.context,
                self.batch,
                self.type_kv,
                self.memory,
                widgets.HBox([*buttons, self.goal], layout=widgets.Layout(flex_flow="row wrap")),
                widgets.HBox([self.progress, self.message]),
                self.code,
                self.plot,
                self.history,
            ]
        )
        self.box.add_class("gpu-tuner")


def _models(given: str | os.PathLike[str] | None) -> list[tuple[str, str]]:
    """The models to choose from: the one given, the embedded one (""), those of other programs."""
    found = [(_EMBEDDED, "")]
    if given is not None:
        found.insert(0, (os.path.basename(os.fspath(given)), os.fspath(given)))  # noqa: PTH119
    found += [(f"{one.name} ({one.source})", str(one.path)) for one in local_models()]
    return found


def _looks() -> dict[str, Any]:
    return {"layout": _WIDE, "style": _LABEL, "continuous_update": True}


def _button(text: str, tooltip: str) -> Any:
    return widgets.Button(description=text, tooltip=tooltip)
