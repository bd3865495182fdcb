"""`what_helps`: each setting alone against the default, on this machine, losses included."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers.bench.grid import Setup, make_setup
from helpers.bench.rows import Settings, SweepRow
from helpers.bench.sweep import TIMEOUT_S, measured_on
from helpers.bench.trial import Cancel, Cancelled, Step, is_cancelled, run_trial
from helpers.checks import check_range
from helpers.convert import quantize
from helpers.errors import HelpersError
from helpers.files import replace_text
from helpers.load_options import check_option
from helpers.models import inspect_model
from helpers.native import Device, usable_cores
from helpers.tables import Cells, html_table, text_lines

_COLUMNS = {"setting": "<", "what": "<", "ratio": ">8.2f", "spread": "<", "": "<"}
_NOISE = 0.03
"""Ratios nearer to 1 than that say nothing, however often they were measured."""

_TWINS = ("Q4_0", "Q8_0")
"""What a model is stored as for a trial: types whose matrices llama.cpp has quick routines for on
any processor, of fewer bits and of more."""

_SMALL = 2**30
"""Bytes of the largest file that is stored anew without being asked for."""


@dataclass(frozen=True)
class Lever:
    """One setting against the default.

    Attributes:
        name: The setting as it is written in code.
        what: "prompt", "generation", or what was generated.
        ratios: Its speed over the default's, one for each round: above 1 is faster.
        reason: Why there are none; empty if there are.
    """

    name: str
    what: str
    ratios: tuple[float, ...] = ()
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """The median; None where nothing was measured."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        """Where all rounds say so "faster" or "slower", else "no difference"."""
        if not self.ratios:
            return self.reason
        if min(self.ratios) > 1 + _NOISE:
            return "faster"
        return "slower" if max(self.ratios) < 1 - _NOISE else "no difference"


@dataclass
class Levers:
    """What `what_helps` found; it prints as a table, in a notebook too.

    Attributes:
        model: Name of the model file.
        machine: What it was measured on; neither host nor user.
        rows: The settings, in the order in which they were measured.
        stopped: Why it ended early ("cancelled", "interrupted"), or empty.
    """

    model: str
    machine: dict[str, str]
    rows: list[Lever] = field(default_factory=list)
    stopped: str = ""

    def find(self, name: str, what: str) -> Lever:
        """The row of a setting.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.name, row.what) == (name, what):
                return row
        known = ", ".join(sorted({f"({row.name!r}, {row.what!r})" for row in self.rows}))
        raise KeyError(f"{(name, what)} was not measured. There is: {known}.")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        replace_text(Path(path), json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Levers:
        """Read what `save` wrote.

        Raises:
            HelpersError: There is no such file, or it is another one.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = [Lever(**{**row, "ratios": tuple(row["ratios"])}) for row in content.pop("rows")]
            return cls(**content, rows=rows)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise HelpersError(f"{path} cannot be read as saved levers: {error}.") from None

    def _cells(self) -> list[Cells]:
        return [
            (
                row.name,
                row.what,
                row.ratio,
                f"{min(row.ratios):.2f} to {max(row.ratios):.2f}" if row.ratios else "",
                row.verdict,
            )
            for row in self.rows
        ]

    def _title(self) -> str:
        about = "; ".join(v for k, v in self.machine.items() if k in ("date", "processor"))
        early = f", {self.stopped}" if self.stopped else ""
        return f"{self.model}: speed over that of the defaults ({about}){early}"

    def __str__(self) -> str:
        return "\n".join([self._title(), *text_lines(_COLUMNS, self._cells())])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._cells(), caption=[self._title()])


def levers_for(
    setup: Setup, cores: int, speculate: Sequence[str] = ("lookup",)
) -> list[tuple[Settings, str]]:
    """The settings worth a trial on this machine, each with one change from the default.

    Args:
        setup: The model, and whether there are devices.
        cores: Compute threads of the default.
        speculate: Ways to guess.

    Returns:
        Settings, and what they change: "prompt", "eval", "both", or "quoting" for guesses.
    """
    default = Settings(n_threads=cores, n_gpu_layers=0)
    found = []
    if setup.offloads:
        every = setup.n_layers
        found += [(replace(default, n_gpu_layers=n), "both") for n in (every // 2, every)]
        if setup.info.n_experts:
            moved = replace(default, n_gpu_layers=every, n_cpu_moe=setup.info.n_layers)
            found.append((moved, "both"))
    if cores > 1:
        found.append((replace(default, n_threads=cores // 2), "both"))
        found.append((replace(default, n_threads_batch=cores // 2), "prompt"))
    found.append((replace(default, n_threads=2 * cores), "both"))
    found += [(replace(default, n_ubatch=n), "prompt") for n in (64, 128)]
    found.append((replace(default, flash_attn=False), "both"))
    found.append((replace(default, type_kv="q8_0"), "both"))
    found += [(replace(default, speculate=one), "quoting") for one in speculate]
    return found


def what_helps(
    model: str | os.PathLike[str] | None = None,
    *,
    rounds: int = 3,
    prompt_tokens: int = 256,
    new_tokens: int = 32,
    n_ctx: int | None = 1024,
    devices: Sequence[Device] | None = None,
    speculate: Sequence[str] = ("lookup",),
    quantizations: Sequence[str] | None = None,
    cancel: Cancel = None,
    on_step: Step | None = None,
    on_row: Callable[[Levers], None] | None = None,
) -> Levers:
    """Measure what each setting does here, alone, against the default; losses are shown, too.

    In each round the default and every setting are measured once, each in a process of its own, in
    turning order; a ratio is that of two trials of one round. Two minutes with the embedded model
    on two cores. Guesses are measured twice: going on with what the prompt has said several times,
    which is the best they can do, and from nothing, where they can only cost. The same model with
    other bits per weight is a copy that is quantized for the trials, and deleted.

    Args:
        model: A path, or any name that `find_model` knows; None for `default_model()`.
        rounds: Times that each setting is measured, 1 or more.
        prompt_tokens: Tokens of each prompt, 2 or more.
        new_tokens: Tokens generated each time, 1 or more.
        n_ctx: Tokens of context; None for what `LlamaCpp` takes.
        devices: Devices to use; None for all.
        speculate: Ways to guess: "lookup", or the path of a draft model.
        quantizations: Types to store the weights as, for speed alone; None for Q4_0 and Q8_0 where
            the file has at most 1 GiB, and none for a larger one.
        cancel: A `threading.Event`, or a function that returns True to stop.
        on_step: Told what is going on, and which share of all is done (0 to 1).
        on_row: Given the result after each round.

    Returns:
        A `Levers`; draw it with `plot_levers`. Ctrl-C and `cancel` give what there is.

    Raises:
        ModelFileError: There is no such model.
        TypeError: A value is of the wrong kind.
        ValueError: A value has no meaning.

    >>> what_helps(rounds=1).find("n_threads=1", "generation").ratio  # doctest: +SKIP
    0.71
    """
    check_range("rounds", rounds, 1, 100)
    for name, given in (("speculate", speculate), ("quantizations", quantizations or ())):
        if isinstance(given, str) or not isinstance(given, Iterable):  # a text's letters are values
            raise TypeError(f"{name}={given!r} must be a list, such as [{given!r}].")
    speculate = [way for one in speculate if (way := check_option("speculate", one))]
    setup = make_setup(
        model,
        prompt_tokens=check_range("prompt_tokens", prompt_tokens, 2, 1 << 20),
        new_tokens=check_range("new_tokens", new_tokens, 1, 1 << 20),
        repeats=1,
        n_ctx=n_ctx,
        chosen=devices,
        timeout_s=TIMEOUT_S,
    )
    cores = usable_cores()
    result = Levers(setup.path.name, measured_on(devices))
    trials = _trials(setup, Settings(n_threads=cores), levers_for(setup, cores, speculate))
    speeds: dict[tuple[str, str], list[SweepRow]] = {}
    refused: list[Lever] = []
    try:
        with TemporaryDirectory(prefix="twins-") as folder:
            for kind in _twins_of(setup) if quantizations is None else dict.fromkeys(quantizations):
                if is_cancelled(cancel):
                    raise Cancelled
                if on_step is not None:
                    on_step(f"a copy in {kind}", 0.0)
                try:
                    twin = _twin(setup, kind, Path(folder))
                except HelpersError as error:
                    refused.append(Lever(f"in {kind}", "copy", (), str(error)))
                else:
                    trials.append((f"in {kind}", twin, Settings(n_threads=cores)))
            for number in range(rounds):
                order = trials if number % 2 == 0 else trials[::-1]
                for place, (name, one, settings) in enumerate(order):
                    if is_cancelled(cancel):
                        raise Cancelled
                    if on_step is not None:
                        share = (number * len(trials) + place) / (rounds * len(trials))
                        on_step(f"round {number + 1} of {rounds}: {name}", share)
                    row = run_trial(one, settings, cancel=cancel)
                    speeds.setdefault((name, "quoting" if one.quoting else ""), []).append(row)
                result.rows = [*_rows(trials, speeds), *refused]
                if on_row is not None:
                    on_row(result)
    except Cancelled:
        result.stopped = "cancelled"
    except KeyboardInterrupt:
        result.stopped = "interrupted"
    return result


def _twins_of(setup: Setup) -> list[str]:
    """Types worth a copy: those that the file is not in already, if it is small."""
    if setup.info.file_size > _SMALL:
        return []
    return [kind for kind in _TWINS if kind != setup.info.quantization]


def _twin(setup: Setup, kind: str, folder: Path) -> Setup:
    """The same trials of a copy with other bits per weight."""
    path = quantize(setup.path, kind, folder / f"{kind}.gguf", allow_requantize=True).path
    return replace(setup, path=path, info=inspect_model(path, check=False))


_DEFAULT = "default"


def _trials(
    setup: Setup, default: Settings, levers: list[tuple[Settings, str]]
) -> list[tuple[str, Setup, Settings]]:
    """Every trial of a round: its name, how it is made, and its settings."""
    quoting = replace(setup, quoting=True)
    trials = [(_DEFAULT, setup, default)]
    if any(what == "quoting" for _, what in levers):
        trials.append((_DEFAULT, quoting, default))
    for settings, what in levers:
        name = _change(settings, default)
        trials.append((name, setup, settings))
        if what == "quoting":
            trials.append((name, quoting, settings))
    return trials


def _change(settings: Settings, default: Settings) -> str:
    """What differs from the default, as it is written in code; a path without its folders."""
    words = []
    for name, value in vars(settings).items():
        if value != getattr(default, name):
            name = {"type_kv": "type_k=type_v"}.get(name, name)
            shown = Path(value).name if isinstance(value, str) else value
            words.append(f"{name}={shown}")
    return ", ".join(words)


def _rows(
    trials: list[tuple[str, Setup, Settings]], speeds: dict[tuple[str, str], list[SweepRow]]
) -> Iterator[Lever]:
    """The ratios of the rounds that were measured whole."""
    for name, setup, settings in trials:
        if name == _DEFAULT:
            continue
        key = "quoting" if setup.quoting else ""
        pairs = list(zip(speeds[name, key], speeds[_DEFAULT, key], strict=False))
        failed = next((row.reason for pair in pairs for row in pair if row.reason), "")
        guesses = settings.speculate is not None
        for what in ("prompt", "eval"):
            if (what == "prompt" and guesses) or (what == "eval" and _of_prompt(name)):
                continue
            label = "prompt" if what == "prompt" else "generation"
            if guesses:
                label = "repeating" if setup.quoting else "free text"
            runs: list[tuple[Any, Any]] = [
                (ours.speed(what)[0], theirs.speed(what)[0]) for ours, theirs in pairs
            ]
            ratios = tuple(round(a / b, 4) for a, b in runs if a and b)
            yield Lever(name, label, () if failed else ratios, failed)


def _of_prompt(name: str) -> bool:
    return name.startswith(("n_threads_batch", "n_ubatch", "n_batch"))
