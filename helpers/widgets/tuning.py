"""What `GpuTuner` does, without a widget: plans, trials, a search, and settings to come back to."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.bench import (
    Levers,
    Settings,
    Sweep,
    SweepResult,
    SweepRow,
    find_best,
    what_helps,
)
from helpers.bench.trial import Cancel, Step
from helpers.files import replace_text
from helpers.install.paths import cache_dir, claim_cache
from helpers.memory import MemoryPlan
from helpers.memory.plan import KINDS
from helpers.memory.planner import Planner
from helpers.memory.predict import make_planner
from helpers.native import Device, display_names, usable_cores

KV_CHOICES = ("f16", "q8_0", "q4_0")
BATCHES = (32, 64, 128, 256, 512, 1024, 2048)
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
_GUESSES = (None, "lookup")

_FAR = 2.5  # a limit further away than this many times the need would make the bar a sliver
_PATTERNS = {
    "weights": "#4C78A8",
    "kv": "repeating-linear-gradient(45deg,#72B7B2 0 4px,#3E8E88 4px 6px)",
    "compute": "repeating-linear-gradient(90deg,#EECA3B 0 4px,#A98A10 4px 6px)",
}
_WORDS = {"weights": "weights", "kv": "KV cache", "compute": "compute buffers"}


@dataclass(frozen=True)
class Kept:
    """Settings that were the best, as they are kept for a model and a machine."""

    settings: Settings
    n_ctx: int
    goal: str
    eval_per_second: float | None
    prompt_per_second: float | None
    date: str

    def beats(self, row: SweepRow, n_ctx: int, goal: str) -> bool:
        """Whether they were faster than a row, for the same goal and context."""
        if (self.n_ctx, self.goal) != (n_ctx, goal) or self.settings == row.settings:
            return False
        speeds = (self.prompt_per_second, self.eval_per_second)
        prompt, generation = ((speed,) if speed else () for speed in speeds)
        then = SweepRow(prompt_runs=prompt, eval_runs=generation)
        return then.score(goal) >= row.score(goal)


class Tuning:
    """A model on some devices, and all that was measured with it.

    Args:
        model: A path, or any name that `find_model` knows; None for the embedded model.
        devices: Devices that take layers; empty for the processor alone.
        prompt_tokens: Tokens of each measured prompt.
        new_tokens: Tokens generated each time.
        repeats: Times that both are measured in a trial.

    Attributes:
        wide: Search threads, KV cache types and guesses, too. Every trial then goes on with what
            its prompt has said several times, so its rows and what is kept are apart from others.

    Raises:
        ModelFileError: There is no such model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        devices: Sequence[Device] = (),
        *,
        prompt_tokens: int = 128,
        new_tokens: int = 24,
        repeats: int = 2,
    ) -> None:
        self.model = model
        self.devices = tuple(devices)
        self._lengths: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "repeats": repeats,
        }
        self.wide = False
        self._sweeps: dict[tuple[int, bool], Sweep] = {}
        setup = self._sweep(512).setup
        self.info = setup.info
        self.n_layers = setup.n_layers

    def contexts(self) -> list[int]:
        """Context lengths to choose from: those that the model was trained for."""
        most = self.info.n_ctx_train or 4096
        return sorted({*(n for n in CONTEXTS if n <= most), min(most, 131_072)})

    def plan(self, n_gpu_layers: int, n_ctx: int, n_batch: int, type_kv: str) -> MemoryPlan:
        """The memory that settings take; microseconds once their compute buffers are known."""
        return self._planner(n_ctx, n_batch, type_kv).plan(n_gpu_layers)

    def prepare(self, n_ctx: int, n_batch: int, type_kv: str) -> None:
        """Let every later plan for other layers answer within milliseconds."""
        self._planner(n_ctx, n_batch, type_kv).prepare()

    def result(self, n_ctx: int) -> SweepResult:
        """What was measured with a context, in the order in which it was."""
        return self._sweep(n_ctx).result

    def measure(
        self,
        n_gpu_layers: int,
        n_ctx: int,
        n_batch: int,
        type_kv: str,
        *,
        cancel: Cancel = None,
        on_step: Step | None = None,
    ) -> SweepRow:
        """Make one trial, in a process of its own, and keep its row.

        Raises:
            Cancelled: `cancel` said so; the trial's process is gone.
        """
        sweep = self._sweep(n_ctx)
        sweep.cancel, sweep.on_step = cancel, on_step
        return sweep.measure(
            Settings(
                n_gpu_layers=n_gpu_layers,
                n_batch=min(n_batch, n_ctx),
                n_threads=usable_cores(),
                type_kv=type_kv,
            )
        )

    def find_best(
        self,
        n_ctx: int,
        goal: str,
        *,
        cancel: Cancel = None,
        on_step: Step | None = None,
        on_row: Callable[[SweepRow], None] | None = None,
    ) -> SweepResult:
        """Search layers and batches, or more, for the best settings; rows are kept as they come.

        Raises:
            DeviceError: Nothing fits the memory.
        """
        result = self.result(n_ctx)

        def keep(row: SweepRow) -> None:
            result.put(row)
            if on_row is not None:
                on_row(row)

        more: dict[str, Any] = {"n_threads": [None]}
        if self.wide:
            more = {"type_kv": KV_CHOICES[:2], "speculate": _GUESSES}
        found = find_best(
            self.model,
            goal,
            devices=self.devices or None,
            n_batch=[n for n in (128, 512) if n <= n_ctx],
            n_ctx=n_ctx,
            cancel=cancel,
            on_step=on_step,
            on_row=keep,
            **more,
            **self._lengths,
        )
        result.stopped = found.stopped
        return found

    def what_helps(
        self,
        n_ctx: int,
        *,
        cancel: Cancel = None,
        on_step: Step | None = None,
        on_row: Callable[[Levers], None] | None = None,
    ) -> Levers:
        """Measure what each setting does here, alone, against the default."""
        return what_helps(
            self.model,
            rounds=self._lengths["repeats"],
            prompt_tokens=self._lengths["prompt_tokens"],
            new_tokens=self._lengths["new_tokens"],
            n_ctx=n_ctx,
            devices=self.devices or None,
            cancel=cancel,
            on_step=on_step,
            on_row=on_row,
        )

    def best(self, n_ctx: int, goal: str) -> SweepRow | None:
        """The best row so far, or None."""
        rows = [row for row in self.result(n_ctx).rows if row.score(goal) > float("-inf")]
        return self.result(n_ctx).best(goal) if rows else None

    def code(self, n_ctx: int, goal: str) -> str:
        """The line that makes a model with the best settings so far; empty before the first."""
        return self.result(n_ctx).code(goal) if self.best(n_ctx, goal) else ""

    # -- kept for the next time -------------------------------------------------------------------

    def keep(self, n_ctx: int, goal: str) -> Kept | None:
        """Keep the best settings for this model and machine, unless better ones are kept already.

        Returns:
            What is kept now; None before the first trial.

        Raises:
            OSError: The file cannot be written.
            InstallError: Its folder is not the suite's.
        """
        row, old = self.best(n_ctx, goal), self.kept()
        if row is None or (old is not None and old.beats(row, n_ctx, goal)):
            return old
        new = Kept(
            row.settings,
            n_ctx,
            goal,
            row.eval_per_second,
            row.prompt_per_second,
            self.result(n_ctx).machine.get("date", ""),
        )
        everything = _read_kept()
        everything[self._key()] = {**vars(new), "settings": vars(new.settings)}
        replace_text(claim_cache() / kept_file().name, json.dumps(everything, indent=1))
        return new

    def kept(self) -> Kept | None:
        """What was kept for this model and machine, or None."""
        entry = _read_kept().get(self._key())
        if isinstance(entry, dict):
            with contextlib.suppress(TypeError, KeyError):  # written by another version
                return Kept(**{**entry, "settings": Settings(**entry["settings"])})
        return None

    def _key(self) -> str:
        """This model on this machine with these devices, without an accelerator's port."""
        result = self.result(512)
        machine = {name: value for name, value in result.machine.items() if name != "date"}
        parts = [result.model["fingerprint"], machine, result.setup["devices"]]
        parts += ["wide"] if self.wide else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def _planner(self, n_ctx: int, n_batch: int, type_kv: str) -> Planner:
        return make_planner(
            self.info.path,
            n_ctx=n_ctx,
            n_batch=n_batch,
            type_k=type_kv,
            type_v=type_kv,
            devices=self.devices,
        )

    def _sweep(self, n_ctx: int) -> Sweep:
        key = (n_ctx, self.wide)
        if key not in self._sweeps:
            self._sweeps[key] = Sweep(
                self.model,
                n_gpu_layers=[0],
                n_ctx=n_ctx,
                devices=self.devices or None,
                speculate=_GUESSES if self.wide else [None],
                **self._lengths,
            )
        return self._sweeps[key]


def kept_file() -> Path:
    """Where settings are kept; `python -m helpers clean` removes it."""
    return cache_dir() / "tuned.json"


def _read_kept() -> dict[str, Any]:
    try:
        found = json.loads(kept_file().read_text("utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: a search brings it back
        return {}
    return found if isinstance(found, dict) else {}


def memory_html(plan: MemoryPlan) -> str:
    """Bars of a plan: one for each device, with its limit, in patterns and words."""
    shown = display_names(plan.by_device)
    longest = max(plan.needed_mib(device) for device in plan.by_device)
    limits = [_limit(plan, device) for device in plan.by_device]
    scale = 1.05 * max(1.0, longest, *(limit for limit in limits if limit <= _FAR * longest))
    rows = "".join(_bar(plan, device, shown[device], scale) for device in plan.by_device)
    legend = " ".join(
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:1.6em;'
        f'height:.8em;background:{_PATTERNS[kind]}"></span> {_WORDS[kind]}</span>'
        for kind in KINDS
    )
    said = "✓ it fits" if plan.fits else "✗ it does not fit"
    advice = "".join(f"<div>{html.escape(line)}</div>" for line in plan.advice)
    about = " (compute buffers estimated)" if plan.estimated else ""
    return (
        f'<div class="gpu-tuner-memory" role="status" style="max-width:720px;line-height:1.4">'
        f"<div><b>{said}</b>: {plan.n_gpu_layers} of {plan.n_layers} layers on devices, "
        f"{plan.total_mib:,.0f} MiB in all{about}</div>{rows}"
        f'<div style="font-size:90%;display:flex;gap:1.2em">{legend}</div>{advice}</div>'
    )


def _limit(plan: MemoryPlan, device: str) -> float:
    return max(0.0, plan.free_mib[device] - plan.margin_mib[device])


def _bar(plan: MemoryPlan, device: str, name: str, scale: float) -> str:
    kinds = plan.by_device[device]
    need, free = plan.needed_mib(device), plan.free_mib[device]
    limit = _limit(plan, device)
    lacking = plan.lacking_mib.get(device)
    segments = "".join(
        f'<span title="{_WORDS[kind]}: {kinds[kind]:,.1f} MiB" style="display:inline-block;'
        f'height:100%;width:{100 * kinds[kind] / scale:.2f}%;background:{_PATTERNS[kind]}"></span>'
        for kind in KINDS
    )
    mark = (
        f'<span title="limit: {limit:,.0f} MiB" style="position:absolute;left:'
        f"{100 * limit / scale:.2f}%;top:-3px;bottom:-3px;border-left:3px dashed "
        'var(--jp-ui-font-color0,#111)"></span>'
        if limit < scale
        else ""
    )
    frame, colour, words = "1px solid #808080", "", f"{need:,.0f} MiB of {free:,.0f} free"
    if lacking is not None:
        frame, colour = "3px solid #D1242F", ";color:#D1242F;font-weight:bold"
        words = f"✗ {need:,.0f} MiB, {lacking:,.0f} MiB too many"
    layers = plan.layers_on.get(device, 0)
    return (
        f'<div style="margin:.4em 0"><div style="display:flex;justify-content:space-between">'
        f"<span>{html.escape(name)}: {layers} layer{'' if layers == 1 else 's'}</span>"
        f'<span style="white-space:nowrap{colour}">{words}</span></div>'
        f'<div style="position:relative;height:1.3em;border:{frame};white-space:nowrap;'
        f'font-size:14px;line-height:0">{segments}{mark}</div></div>'
    )
