"""What a sweep is told, checked and settled before any trial starts."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.bench.rows import RARER, Settings, without_address
from helpers.checks import check_range
from helpers.kv_types import KV_TYPES, kv_type
from helpers.load_options import LoadOptions, check_option
from helpers.models import ModelInfo, default_model, find_model, inspect_model
from helpers.models.catalogue import CATALOGUE
from helpers.native import Device, devices, usable_cores

_HASHED = 1 << 20
"""Bytes of a model file that its fingerprint is made of: the header and the first weights."""


ORDERED = ("n_gpu_layers", "n_batch", "n_threads", "n_threads_batch", "n_ubatch", "n_cpu_moe")
"""Those whose values have an order, along which a search can climb."""

DIMENSIONS = (*RARER, "type_kv", "n_threads", "n_batch", "n_gpu_layers")
"""The settings of a grid; the last one changes fastest."""


@dataclass(frozen=True)
class Setup:
    """How every trial of a sweep is made.

    Attributes:
        path: The model file.
        info: Its header.
        code: How to name the model in code here; a path as the user wrote it.
        code_elsewhere: The same without a path, to be kept in a file.
        prompt_tokens: Tokens of each prompt; 0 measures no prompt eval.
        new_tokens: Tokens generated each time; 0 measures no generation.
        repeats: Times that both are measured.
        quoting: Generation goes on with tokens that the prompt has said several times, instead of
            beginning from nothing: what guesses (`speculate`) are good for.
        n_ctx: Tokens of context.
        n_ctx_given: Whether the user chose that.
        devices: `(name, endpoint)` of the devices to use; None for all.
        timeout_s: Most seconds for one trial.
        offloads: Whether there is a device that layers can be placed on.
        labels: Names of the chosen devices, without addresses; None for all.
    """

    path: Path
    info: ModelInfo
    code: str
    code_elsewhere: str
    prompt_tokens: int
    new_tokens: int
    repeats: int
    n_ctx: int
    n_ctx_given: bool
    devices: tuple[tuple[str, str | None], ...] | None
    timeout_s: float
    offloads: bool
    labels: tuple[str, ...] | None = None
    quoting: bool = False

    @property
    def n_layers(self) -> int:
        """Layers that can be offloaded: the blocks and the output layer."""
        return self.info.n_layers + 1

    def options(self, settings: Settings) -> LoadOptions:
        """The engine's options for a trial."""
        given = dict(vars(settings))
        kind = given.pop("type_kv")
        return LoadOptions(
            model_path=str(self.path),
            n_ctx=self.n_ctx,
            type_k=kind,
            type_v=kind,
            devices=self.devices if settings.n_gpu_layers else None,
            isolate=True,
            **given,
        )

    def describe_model(self) -> dict[str, Any]:
        """What identifies the model in a file of results: no path."""
        return {
            "file": self.path.name,
            "bytes": self.info.file_size,
            "fingerprint": fingerprint(self.path),
            "n_layers": self.n_layers,
            "code": self.code,
            "code_elsewhere": self.code_elsewhere,
        }

    def describe(self) -> dict[str, Any]:
        """What must be equal for speeds to be comparable."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "repeats": self.repeats,
            "n_ctx": self.n_ctx,
            "n_ctx_given": self.n_ctx_given,
            "default_threads": usable_cores(),
            **({"quoting": True} if self.quoting else {}),
            "devices": None if self.labels is None else list(self.labels),
        }


@dataclass
class Grid:
    """The values that a sweep goes through, each in rising order and once.

    Attributes:
        n_gpu_layers: Layers on devices.
        n_batch: Tokens per decode.
        n_threads: Compute threads.
        type_kv: Types of the KV cache, in the order given.
        n_threads_batch: Compute threads for prompts; None for those of the point.
        n_ubatch: Tokens computed at once.
        flash_attn: True, False, None, in the order given.
        n_cpu_moe: Blocks whose experts stay on the CPU.
        speculate: "lookup", a draft model, None, in the order given.
        notes: What was changed in what the user gave, in words.
    """

    n_gpu_layers: tuple[int, ...]
    n_batch: tuple[int, ...]
    n_threads: tuple[int, ...]
    type_kv: tuple[str, ...]
    n_threads_batch: tuple[int | None, ...] = (None,)
    n_ubatch: tuple[int, ...] = (LoadOptions.n_ubatch,)
    flash_attn: tuple[bool | None, ...] = (None,)
    n_cpu_moe: tuple[int, ...] = (0,)
    speculate: tuple[str | None, ...] = (None,)
    notes: list[str] = field(default_factory=list)

    def values(self, name: str) -> tuple[Any, ...]:
        """The values of one setting."""
        found: tuple[Any, ...] = getattr(self, name)
        return found

    def __len__(self) -> int:
        return math.prod(len(self.values(name)) for name in DIMENSIONS)

    def points(self) -> list[Settings]:
        """Every combination; layers change fastest, so that a curve grows point by point."""
        return [
            Settings(**dict(zip(DIMENSIONS, point, strict=True)))
            for point in itertools.product(*map(self.values, DIMENSIONS))
        ]


def make_setup(
    model: str | os.PathLike[str] | None,
    *,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    n_ctx: int | None,
    chosen: Sequence[Device] | None,
    timeout_s: float,
) -> Setup:
    """Check everything that all trials share.

    Raises:
        ModelFileError: There is no such model, or it is no model.
        TypeError: A value is of the wrong kind.
        ValueError: A value has no meaning, or the tokens do not fit the context.
    """
    check_range("prompt_tokens", prompt_tokens, 0, 1 << 20)
    check_range("new_tokens", new_tokens, 0, 1 << 20)
    check_range("repeats", repeats, 1, 1000)
    check_range("timeout_s", timeout_s, 0.001, 86_400.0, " seconds")
    if prompt_tokens == 1:
        raise ValueError("prompt_tokens=1 is too short to time: use 2 or more, or 0 for none.")
    if not prompt_tokens and not new_tokens:
        raise ValueError("prompt_tokens=0 and new_tokens=0: there is nothing to measure.")
    path = Path(os.path.realpath(find_model(model)))
    info = inspect_model(path, check=False)
    fitted = LoadOptions(model_path=str(path), n_ctx=n_ctx).for_model(info.n_ctx_train)
    context = fitted.n_ctx or 0
    needed = max(prompt_tokens + 1, new_tokens + 3)
    if needed > context:
        raise ValueError(
            f"prompt_tokens={prompt_tokens} and new_tokens={new_tokens} need a context of {needed} "
            f"tokens, but it has n_ctx={context}. Measure fewer tokens, or set n_ctx={needed}."
        )
    code, elsewhere = _names(model, path)
    return Setup(
        path=path,
        info=info,
        code=code,
        code_elsewhere=elsewhere,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        n_ctx=context,
        n_ctx_given=n_ctx is not None,
        devices=None if chosen is None else _pairs(chosen),
        timeout_s=float(timeout_s),
        offloads=any(device.offloads for device in (devices() if chosen is None else chosen)),
        labels=None if chosen is None else tuple(without_address(d.name) for d in chosen),
    )


def make_grid(
    setup: Setup,
    *,
    n_gpu_layers: Iterable[int] | None,
    n_batch: Iterable[int],
    n_threads: Iterable[int | None],
    type_kv: Iterable[str],
    **rarer: Iterable[Any],
) -> Grid:
    """Check the values of a grid; what is beyond the model or the context is clamped, and said.

    Raises:
        TypeError: A value is of the wrong kind.
        ValueError: There are no values, or one has no meaning.
    """
    notes: list[str] = []
    layers = (
        default_layers(setup.n_layers)
        if n_gpu_layers is None
        else _values("n_gpu_layers", n_gpu_layers)
    )
    if n_gpu_layers is None and not setup.offloads:
        layers = [0]
    batches = _values("n_batch", n_batch)
    threads = _values("n_threads", n_threads)
    kinds = _values("type_kv", type_kv)
    for value in layers:
        check_range("n_gpu_layers", value, -1, 2**31 - 1, "; -1 is all layers")
    for value in batches:
        check_option("n_batch", value)
    for value in threads:
        check_option("n_threads", value)
    others = {name: _values(name, rarer.get(name, (getattr(Settings, name),))) for name in RARER}
    for name, given in others.items():
        others[name] = [check_option(name, value) for value in given]
    if any(others["n_cpu_moe"]) and not setup.info.n_experts:
        notes.append("n_cpu_moe: the model is no mixture of experts; 0 is used")
        others["n_cpu_moe"] = [0]
    for value in kinds:
        if not isinstance(value, str):
            raise TypeError(f"type_kv={value!r} must be a name, such as 'f16' or 'q8_0'.")
        kv_type("type_kv", value)
    beyond = sorted({value for value in layers if value > setup.n_layers})
    if beyond:
        notes.append(
            f"n_gpu_layers={_listed(beyond)}: the model has {setup.n_layers} layers to offload "
            f"({setup.info.n_layers} blocks and the output); {setup.n_layers} is used"
        )
    layers = [setup.n_layers if v == -1 else min(v, setup.n_layers) for v in layers]
    if any(layers) and not setup.offloads:
        notes.append(
            f"n_gpu_layers={_listed(sorted({v for v in layers if v}))}: there is no GPU here, so "
            "all layers stay on the CPU; practice_accelerator() gives a device to practise with"
        )
        layers = [0]
    large = sorted({value for value in batches if value > setup.n_ctx})
    if large:
        notes.append(f"n_batch={_listed(large)}: more than the context; {setup.n_ctx} is used")
    return Grid(
        n_gpu_layers=tuple(sorted(set(layers))),
        n_batch=tuple(sorted({min(value, setup.n_ctx) for value in batches})),
        n_threads=tuple(sorted({value or usable_cores() for value in threads})),
        type_kv=tuple(dict.fromkeys(_kv_name(value) for value in kinds)),
        **{
            name: tuple(
                sorted(set(given))
                if name in ORDERED and None not in given
                else dict.fromkeys(given)
            )
            for name, given in others.items()
        },
        notes=notes,
    )


def default_layers(n_layers: int, counts: int = 5) -> list[int]:
    """Counts worth a look when none are given: even steps from 0 to all, and all but the output.

    >>> default_layers(31)
    [0, 8, 16, 23, 30, 31]
    """
    even = {round(n_layers * step / (counts - 1)) for step in range(counts)}
    return sorted({*even, max(0, n_layers - 1)})


def fingerprint(path: Path) -> str:
    """A short digest of a model file's beginning: its header tells models apart."""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(_HASHED)).hexdigest()[:16]


def _values(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name}={values!r} must be a list of values, such as [{values!r}].")
    found = list(values)
    if not found:
        raise ValueError(f"{name} is empty: give at least one value.")
    return found


def _pairs(chosen: Sequence[Device]) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(chosen, Sequence) or not all(isinstance(d, Device) for d in chosen):
        raise TypeError(f"devices={chosen!r} must be a list of Device, from helpers.devices().")
    if not chosen:
        raise ValueError("devices is empty: give at least one Device, or None for all.")
    return tuple((device.name, device.endpoint) for device in chosen)


def _names(model: str | os.PathLike[str] | None, path: Path) -> tuple[str, str]:
    """How to name the model in code: as the user did, and in a way that tells no path."""
    if path == Path(os.path.realpath(default_model())):
        return "default_model()", "default_model()"
    if isinstance(model, str) and model.partition(":")[0] in CATALOGUE:
        return f"find_model({model!r})", f"find_model({model!r})"
    return repr(os.fspath(model or path)), f"find_model({path.name!r})"


def _kv_name(value: str) -> str:
    number = KV_TYPES[value.lower()]
    return next(name for name, other in KV_TYPES.items() if other == number)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
