"""`GpuTuner`: turn the knob `n_gpu_layers`, see the memory at once, measure, find the best.

Everything it shows is made in `tuning.py`, without widgets.
"""

from __future__ import annotations

import html
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from helpers.bench import Cancelled, Levers, SweepRow
from helpers.errors import InstallError
from helpers.memory import MemoryPlan
from helpers.memory.targets import checked_devices, offload_devices
from helpers.models import local_models
from helpers.native import Device, PracticeAccelerator
from helpers.widgets.shell import Work, picture
from helpers.widgets.tuning import BATCHES, KV_CHOICES, Kept, Tuning, memory_html

_WIDE = widgets.Layout(width="640px", max_width="100%")
_LABEL = {"description_width": "140px"}
_EMBEDDED = "the embedded model"
_PRACTICE_MIB = (("all of this machine's", None), *((f"{n} MiB", n) for n in (150, 100, 64)))
_WIDE_SEARCH = (
    "search threads, KV cache types and guessed tokens, too (a text that quotes its prompt)"
)
_GOALS = (("generation speed", "eval"), ("prompt speed", "prompt"), ("both", "both"))


class GpuTuner:
    """Sliders for layers, context, batch and KV type; memory, speed and code beside them.

    Show it as the last line of a cell. The memory answers while the slider moves; *Measure* makes
    one trial in a process of its own, *Find the best* a search, *What helps me?* tries each setting
    alone, *Cancel* ends all at once. All of it works from the keyboard, and from code:
    `tuner.layers.value = 12; tuner.measure()`.

    Args:
        model: A path, or any name that `find_model` knows; None for the embedded model.
        devices: Devices that take layers; None for this machine's. Without any, the tuner offers
            the practice accelerator.
        n_ctx: Tokens of context to begin with; None for 4096 or what the model has.
        prompt_tokens: Tokens of each measured prompt.
        new_tokens: Tokens generated each time.
        repeats: Times that both are measured in a trial.

    Attributes:
        model: Dropdown: the models that are on this machine.
        practice: Checkbox: use the practice accelerator.
        practice_memory: Dropdown: the memory it is given.
        layers: Slider: `n_gpu_layers`, 0 to all.
        context: Slider: tokens of context.
        batch: Slider: tokens per decode.
        type_kv: Dropdown: type of the KV cache.
        goal: Dropdown: what *Find the best* looks for.
        wide: Checkbox: *Find the best* searches threads, KV types and guesses, too.
        message: What is being done, or what went wrong.
        memory: The predicted memory by device.
        history: The trials so far.
        levers: What *What helps me?* has measured.
        code: The line of the best settings, once *Copy code* was clicked.
        plan: The `MemoryPlan` that is shown; None after an error.
        failure: The last exception of an action, or None.

    >>> tuner = GpuTuner()
    >>> tuner.plan.n_gpu_layers == tuner.layers.value
    True
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        devices: Sequence[Device] | None = None,
        *,
        n_ctx: int | None = None,
        prompt_tokens: int = 128,
        new_tokens: int = 24,
        repeats: int = 2,
    ) -> None:
        found = offload_devices() if devices is None else checked_devices(devices)
        self._own_devices = found
        self._lengths = {
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "repeats": repeats,
        }
        self._accelerator: PracticeAccelerator | None = None
        self._quiet = False
        self._prepared: dict[str, Any] = {}
        self.plan: MemoryPlan | None = None
        self.failure: BaseException | None = None
        self._logic = Tuning(model, found, **self._lengths)
        self._make_controls(model, offer_practice=not found)
        starts = [self.measure_button, self.find_button, self.levers_button, self.wide]
        self._work = Work("gpu-tuner", starts, self.cancel_button)
        self._said = ""
        self._model_changed_to(n_ctx)
        self._connect()
        self._show_kept()
        self._settings_changed()

    # -- what buttons do, from code ---------------------------------------------------------------

    def measure(self) -> SweepRow | None:
        """Make one trial with the settings shown, and wait for it.

        Returns:
            Its row; None if it failed or was cancelled, and then `failure` or `message` says why.
        """
        return self._measure() if self._begin("measuring") else None

    def find_best(self) -> SweepRow | None:
        """Search for the best settings, wait, and set the sliders to them."""
        return self._search() if self._begin("searching") else None

    def what_helps(self) -> Levers | None:
        """Measure what each setting does here, alone, against the default, and wait.

        Returns:
            What was measured, drawn below the buttons; None if it failed.
        """
        return self._compare_levers() if self._begin("measuring what helps") else None

    def cancel(self) -> None:
        """End the trial or the search in progress; what was measured remains."""
        self._work.stop.set()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for what a button has begun, at most some seconds."""
        self._work.wait(timeout_s)

    def close(self) -> None:
        """End what is going on, and the practice accelerator."""
        self.cancel()
        self.wait(10)
        if self._accelerator is not None:
            self._accelerator.close()
            self._accelerator = None

    @property
    def result(self) -> Any:
        """The `SweepResult` with the trials made with the context shown."""
        return self._logic.result(self.context.value)

    def __str__(self) -> str:
        parts = [str(self.plan) if self.plan else "", self._said]
        if self.result.rows:
            parts.append(str(self.result))
        return "\n\n".join(part for part in parts if part)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # Where a notebook is only read there are no widgets: the text says the same.
        return {**self.box._repr_mimebundle_(**options), "text/plain": str(self)}

    # -- beginning and changing -------------------------------------------------------------------

    def _make_controls(self, model: str | os.PathLike[str] | None, *, offer_practice: bool) -> None:
        wide: dict[str, Any] = {"layout": _WIDE, "style": _LABEL}
        slider = {**wide, "continuous_update": True}
        self.model = widgets.Dropdown(options=_models(model), description="model", **wide)
        self.practice = widgets.Checkbox(
            False, description="use the practice accelerator", indent=False
        )
        self.practice_memory = widgets.Dropdown(
            options=_PRACTICE_MIB, description="with the memory", style=_LABEL, disabled=True
        )
        self.layers = widgets.IntSlider(value=0, min=0, max=1, description="n_gpu_layers", **slider)
        self.context = widgets.SelectionSlider(options=[512], description="n_ctx", **slider)
        self.batch = widgets.SelectionSlider(
            options=BATCHES, value=512, description="n_batch", **slider
        )
        self.type_kv = widgets.Dropdown(options=KV_CHOICES, description="KV cache type", **wide)
        self.goal = widgets.Dropdown(options=_GOALS, description="best for", style=_LABEL)
        self.wide = widgets.Checkbox(
            False, description=_WIDE_SEARCH, indent=False, layout=widgets.Layout(width="auto")
        )
        self.measure_button = _button("Measure", "Measure the settings shown, in a trial process")
        self.find_button = _button("Find the best", "Search for the fastest settings that fit")
        self.levers_button = _button("What helps me?", "Measure what each setting does here, alone")
        self.cancel_button = _button("Cancel", "End what is being measured")
        self.cancel_button.disabled = True
        self.code_button = _button("Copy code", "Show the line with the best settings, to copy")
        self.progress = widgets.FloatProgress(
            value=0.0, min=0.0, max=1.0, layout=widgets.Layout(width="240px")
        )
        texts = [widgets.HTML() for _ in range(5)]
        self.message, self.memory, self.plot, self.history, self.levers = texts
        self.code = widgets.Textarea(
            "",
            tooltip="The line to copy: Ctrl+A, Ctrl+C",
            rows=2,
            layout=widgets.Layout(width="640px", max_width="100%", display="none"),
        )
        practice = widgets.HBox([self.practice, self.practice_memory])
        practice.layout.display = "" if offer_practice else "none"
        buttons = [
            self.measure_button,
            self.find_button,
            self.levers_button,
            self.cancel_button,
            self.code_button,
        ]
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
                self.wide,
                widgets.HBox([self.progress, self.message]),
                self.code,
                self.plot,
                self.history,
                self.levers,
            ]
        )
        self.box.add_class("gpu-tuner")

    def _connect(self) -> None:
        for control in (self.layers, self.context, self.batch, self.type_kv):
            control.observe(self._settings_changed, names="value")
        self.context.observe(self._show_history, names="value")
        self.model.observe(self._model_picked, names="value")
        self.practice.observe(self._practice_changed, names="value")
        self.practice_memory.observe(self._practice_changed, names="value")
        self.wide.observe(self._wide_changed, names="value")
        self.measure_button.on_click(lambda _: self._start("measuring", self._measure))
        self.find_button.on_click(lambda _: self._start("searching", self._search))
        self.levers_button.on_click(
            lambda _: self._start("measuring what helps", self._compare_levers)
        )
        self.cancel_button.on_click(lambda _: self.cancel())
        self.code_button.on_click(lambda _: self._show_code())

    def _model_changed_to(self, n_ctx: int | None = None) -> None:
        """Set the sliders' ends for the logic's model and devices."""
        logic = self._logic
        contexts = logic.contexts()
        wanted = n_ctx or self.context.value if n_ctx or len(self.context.options) > 1 else 4096
        offered = sorted({*contexts, *([n_ctx] if n_ctx else [])})
        self._quiet = True
        self.context.options = [(f"{n:,} tokens", n) for n in offered]
        self.context.value = max((n for n in offered if n <= wanted), default=offered[0])
        self.layers.max = logic.n_layers if logic.devices else 1
        self.layers.disabled = not logic.devices
        self.layers.value = logic.n_layers if logic.devices else 0
        self._quiet = False

    def _settings(self) -> dict[str, Any]:
        return {
            "n_gpu_layers": self.layers.value,
            "n_ctx": self.context.value,
            "n_batch": self.batch.value,
            "type_kv": self.type_kv.value,
        }

    # -- answers ----------------------------------------------------------------------------------

    def _settings_changed(self, _change: object = None) -> None:
        if self._quiet:
            return
        try:
            settings = self._settings()
            layers = settings.pop("n_gpu_layers")
            if settings != self._prepared:  # so that the slider of layers answers at once
                self._logic.prepare(**settings)
                self._prepared = settings
            self.plan = self._logic.plan(layers, **settings)
            self.memory.value = memory_html(self.plan)
        except Exception as error:  # in a callback it would vanish in a log that nobody reads
            self.plan = None
            self._fail(error)

    def _model_picked(self, change: dict[str, Any]) -> None:
        self._guarded(lambda: self._change_logic(change["new"] or None, self._logic.devices))

    def _practice_changed(self, _change: object) -> None:
        self._guarded(self._switch_practice)

    def _wide_changed(self, _change: object) -> None:
        if self.wide.value != self._logic.wide:
            self._guarded(self._switch_wide)
            self.wide.value = self._logic.wide  # as it was, where a measurement is in progress

    def _switch_wide(self) -> None:
        self._logic.wide = self.wide.value
        self._show_kept()
        self._show_history()

    def _switch_practice(self) -> None:
        if self._accelerator is not None:
            self._accelerator.close()
            self._accelerator = None
        self.practice_memory.disabled = not self.practice.value
        devices: tuple[Device, ...] = self._own_devices
        if self.practice.value:
            self._accelerator = PracticeAccelerator(self.practice_memory.value)
            devices = (self._accelerator.start(),)
            weakref.finalize(self, self._accelerator.close)
        self._change_logic(self._logic.model, devices)
        if self.practice.value:
            about = "The practice accelerator shows where layers go; it makes nothing faster."
            self._say(f"{about} {self._said}" if self._logic.kept() else about)

    def _change_logic(
        self, model: str | os.PathLike[str] | None, devices: Sequence[Device]
    ) -> None:
        self._logic = Tuning(model, devices, **self._lengths)
        self._logic.wide = self.wide.value
        self._prepared = {}
        self._model_changed_to()
        self._show_kept()
        self._settings_changed()
        self._show_history()

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._work.in_progress:
            self._say("Cancel the measurement first, or wait for it.")
            return
        try:
            action()
        except Exception as error:
            self._fail(error)

    def _show_kept(self) -> None:
        kept = self._logic.kept()
        if kept is None:
            self._say("Ready." if self._logic.devices else _NO_DEVICE)
            return
        self._quiet = True
        self._set(kept)
        self._quiet = False
        self._say(f"These settings were the best on {kept.date}: {kept.settings}.")

    def _set(self, kept: Kept) -> None:
        if any(n == kept.n_ctx for _, n in self.context.options):
            self.context.value = kept.n_ctx
        if kept.settings.n_batch in self.batch.options:
            self.batch.value = kept.settings.n_batch
        if kept.settings.type_kv in self.type_kv.options:
            self.type_kv.value = kept.settings.type_kv
        if self._logic.devices:
            self.layers.value = kept.settings.n_gpu_layers

    def _show_history(self, _change: object = None) -> None:
        result = self.result
        table = result._repr_html_()  # Jupyter's own line height would tear its lines apart
        self.history.value = f'<div style="line-height:1.35;overflow-x:auto">{table}</div>'
        if not result.rows:
            self.plot.value = self.history.value = ""
            return
        from helpers.plots import plot_sweep

        self.plot.value = picture(plot_sweep(result))

    def _show_code(self) -> None:
        line = self._logic.code(self.context.value, self.goal.value)
        if not line:
            self._say("There is no best setting yet: click Measure first.")
            return
        self.code.value = line
        self.code.layout.display = ""

    # -- trials -----------------------------------------------------------------------------------

    def _start(self, what: str, action: Callable[[], object]) -> None:
        if self._begin(what):
            self._work.after_click(action)

    def _begin(self, what: str) -> bool:
        if not self._work.begin():
            self._say("A measurement is in progress: cancel it, or wait for it.")
            return False
        self.failure = None
        self.progress.value = 0.0
        self._say(f"{what} …")
        return True

    def _measure(self) -> SweepRow | None:
        def on_step(what: str, share: float) -> None:
            self.progress.value = share
            self._say(f"{what} …")

        row = None
        with self._work.showing(self._fail):
            stop = self._work.stop
            row = self._logic.measure(**self._settings(), cancel=stop, on_step=on_step)
            self._show_history()
            self._say(_told(row))
            self._keep()
        return row

    def _search(self) -> SweepRow | None:
        best = None
        made = 0

        def on_row(row: SweepRow) -> None:
            nonlocal made
            made += 1
            self._show_history()

        def on_step(what: str, share: float) -> None:
            self.progress.value = share
            self._say(f"trial {made + 1}: {what} …")

        with self._work.showing(self._fail):
            aim = (self.context.value, self.goal.value)
            stop = self._work.stop
            found = self._logic.find_best(*aim, cancel=stop, on_step=on_step, on_row=on_row)
            best = self._logic.best(*aim)
            if found.stopped:
                trials = f"{made} trial{'' if made == 1 else 's'}"
                self._say(f"{found.stopped.capitalize()} after {trials}; every row remains.")
            elif best is not None:
                self.batch.value = best.n_batch
                self.layers.value = best.n_gpu_layers
                self.type_kv.value = best.type_kv
                self._say(f"Best of {made} trials: {_told(best)}")
                self._show_code()
            self._keep()
        return best

    def _compare_levers(self) -> Levers | None:
        found = None

        def on_step(what: str, share: float) -> None:
            self.progress.value = share
            self._say(f"{what} …")

        with self._work.showing(self._fail):
            stop = self._work.stop
            found = self._logic.what_helps(
                self.context.value, cancel=stop, on_step=on_step, on_row=self._show_levers
            )
            self.progress.value = 1.0
            self._say(
                "Cancelled; what was measured before remains."
                if found.stopped
                else "What helps here is drawn below: 1 is the speed of the defaults."
            )
        return found

    def _show_levers(self, levers: Levers) -> None:
        from helpers.plots import plot_levers

        drawn = picture(plot_levers(levers)) if any(row.ratios for row in levers.rows) else ""
        self.levers.value = f'{drawn}<div style="overflow-x:auto">{levers._repr_html_()}</div>'

    def _keep(self) -> None:
        try:
            self._logic.keep(self.context.value, self.goal.value)
        except (OSError, InstallError) as error:  # the measurement is still good
            why = getattr(error, "strerror", None) or error
            self._say(f"{self._said} It could not be kept for the next time ({why}).")

    def _say(self, text: str) -> None:
        self._said = text
        # A screen reader reads it out when it changes.
        self.message.value = f'<span role="status" aria-live="polite">{html.escape(text)}</span>'

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            self._say("Cancelled; what was measured before remains.")
            return
        self.failure = error
        self._say(f"This did not work: {str(error) or type(error).__name__}")


_NO_DEVICE = (
    "This llama-cpp-python has no GPU device: layers stay on the processor. Tick the practice "
    "accelerator to see layers move all the same."
)


def _told(row: SweepRow) -> str:
    if not row.ok:
        return f"n_gpu_layers={row.n_gpu_layers} gave no result: {row.reason}"
    return (
        f"n_gpu_layers={row.n_gpu_layers}, n_batch={row.n_batch}: "
        f"{row.eval_per_second or 0:.1f} tokens/s generated, "
        f"{row.prompt_per_second or 0:,.0f} tokens/s of prompt."
    )


def _models(given: str | os.PathLike[str] | None) -> list[tuple[str, str]]:
    """The models to choose from: the one given, the embedded one (""), those of other programs."""
    found = [(_EMBEDDED, "")]
    if given is not None:
        found.insert(0, (os.path.basename(os.fspath(given)), os.fspath(given)))  # noqa: PTH119
    found += [(f"{one.name} ({one.source})", str(one.path)) for one in local_models()]
    return found


def _button(text: str, tooltip: str) -> Any:
    return widgets.Button(description=text, tooltip=tooltip)
