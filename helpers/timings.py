"""What one call took: the figures, the familiar log block, and a reader for old and new logs.

llama.cpp prints a block of timings after each call. Its first word has changed over the years
(`llama_print_timings:`, then `llama_perf_context_print:` with the sampler's line apart); the
figures have not. `Timings` holds them, wherever they come from.

>>> from helpers import Timings
>>> log = "llama_print_timings: eval time = 680.82 ms / 25 runs (27.23 ms per token)"
>>> round(Timings.parse(log)[0].eval_per_second, 2)
36.72
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from helpers.tables import Cells, html_table

__all__ = ["Timings"]

_COLUMNS = {"": "<", "ms": ">.2f", "tokens": ">", "ms per token": ">.2f", "tokens/s": ">.1f"}


@dataclass(frozen=True, kw_only=True)
class Timings(dict[str, Any]):
    """Where the time of one call went. A figure that was not measured is None.

    Times are milliseconds (0 or more), counts are tokens (0 or more). Figures that are not
    finite become None. Objects compare equal when all their figures do. It is also a dict of them,
    for all that writes JSON (LangChain's caches and tracers, message stores).

    Attributes:
        load_ms: Loading the model, once, before the call. In a log that was *parsed* this is
            llama.cpp's own "load time", which lasts until the end of the first decode: there it
            contains the first prompt eval.
        sample_ms: Choosing the tokens (samplers and grammar).
        sample_tokens: Tokens chosen.
        prompt_ms: Prompt eval: reading the prompt.
        prompt_tokens: Tokens of the prompt that were read, without `cached_tokens`.
        cached_tokens: Tokens of the prompt that were still in the KV cache, or came from a file of
            `cache_dir`; reading that is a part of `first_token_ms` and `total_ms` alone.
        eval_ms: Eval: computing the next token, again and again, without sampling.
        eval_tokens: llama.cpp's runs; usually one less than `generated_tokens`, because the first
            token comes out of the prompt eval.
        generated_tokens: Tokens that the caller got.
        guessed_tokens: Tokens that were guessed and checked; None without `speculate`.
        right_tokens: How many of those guesses the model itself would have chosen.
        total_ms: The whole call, without loading.
        first_token_ms: From the start of the call to its first token.
        token_ms: One time for each generated token: since the token before it, and for the first
            one since the start of the call (so `token_ms[0]` is `first_token_ms`).

    >>> t = Timings(prompt_ms=50.0, prompt_tokens=10, eval_ms=200.0, eval_tokens=20)
    >>> t.prompt_per_second, t.eval_per_second
    (200.0, 100.0)
    """

    load_ms: float | None = None
    sample_ms: float | None = None
    sample_tokens: int | None = None
    prompt_ms: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    eval_ms: float | None = None
    eval_tokens: int | None = None
    generated_tokens: int | None = None
    guessed_tokens: int | None = None
    right_tokens: int | None = None
    total_ms: float | None = None
    first_token_ms: float | None = None
    token_ms: list[float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Turn ctypes, NumPy and pandas numbers into plain Python numbers."""
        for name in _NAMES[:-1]:
            value = getattr(self, name)
            if value is not None:
                number = float(value)
                plain = int if name.endswith("_tokens") else float
                object.__setattr__(self, name, plain(value) if math.isfinite(number) else None)
        if self.token_ms is not None:
            object.__setattr__(self, "token_ms", [float(ms) for ms in self.token_ms])
        self.update((name, getattr(self, name)) for name in _NAMES)

    @property
    def prompt_per_second(self) -> float | None:
        """Tokens per second of the prompt eval, or None where it cannot be computed."""
        return _per_second(self.prompt_tokens, self.prompt_ms)

    @property
    def eval_per_second(self) -> float | None:
        """Tokens per second of the eval, or None where it cannot be computed."""
        return _per_second(self.eval_tokens, self.eval_ms)

    @classmethod
    def parse(cls, text: str) -> list[Timings]:
        r"""Read every timings block in a text, in the order of the text.

        The text may be a whole log, a notebook's output or a page of prose; other lines
        are skipped. Both forms are read: `llama_print_timings:` and
        `llama_perf_context_print:` (with `llama_perf_sampler_print:` or `common_perf_print:`).

        Args:
            text: Any text with at least one block.

        Returns:
            One `Timings` for each block; a figure that the block does not give is None.

        Raises:
            ValueError: There is no block in the text, or a line begins like a timings line but
                cannot be read (the message shows it).

        >>> Timings.parse("llama_print_timings:        load time =   358.60 ms\n")[0].load_ms
        358.6
        """
        blocks: list[dict[str, float | int]] = []
        last_family, last_rank = "", math.inf
        for family, name, figures in _timings_lines(text):
            # Each form has a fixed order of lines: a step back in it begins the next block.
            rank = _ORDER[family].index(name)
            if family != last_family or rank <= last_rank:
                blocks.append({})
            last_family, last_rank = family, rank
            for key, value in figures.items():
                # "samplers time" is a part of "sampling time": the whole, read first, is kept.
                blocks[-1].setdefault(key, value)
        if not blocks:
            raise ValueError(
                "There is no timings block in this text "
                f"({_preview(text)}). A block has lines that begin with "
                "'llama_print_timings:' or 'llama_perf_context_print:'."
            )
        return [cls(**block) for block in blocks]  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return the familiar block; `Timings.parse` reads it back (to 1/100 ms)."""
        lines = [
            _line("load time", self.load_ms),
            _line("sample time", self.sample_ms, self.sample_tokens, "runs"),
            _line("prompt eval time", self.prompt_ms, self.prompt_tokens, "tokens"),
            _line("eval time", self.eval_ms, self.eval_tokens, "runs"),
            _line("total time", self.total_ms),
        ]
        return "\n".join(line for line in lines if line) or "llama_print_timings: nothing measured"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dict that JSON can carry; `from_dict` is its inverse.

        >>> Timings.from_dict(Timings(eval_ms=1.5).to_dict()).eval_ms
        1.5
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Timings:
        """Make a `Timings` from what `to_dict` gave.

        Args:
            data: Figures by field name; a field that is absent becomes None.

        Returns:
            The `Timings`.

        Raises:
            ValueError: A key is not a field of `Timings`.

        >>> Timings.from_dict({"eval_ms": 200.0, "eval_tokens": 20}).eval_per_second
        100.0
        """
        unknown = sorted(set(data) - set(_NAMES))
        if unknown:
            raise ValueError(f"Not a field of Timings: {', '.join(map(repr, unknown))}.")
        return cls(**data)

    def _repr_html_(self) -> str:
        """Return a small table for Jupyter: step, time, tokens, ms per token, tokens per second."""
        steps = [
            ("load", self.load_ms, None),
            ("prompt eval", self.prompt_ms, self.prompt_tokens),
            ("sample", self.sample_ms, self.sample_tokens),
            ("eval", self.eval_ms, self.eval_tokens),
            ("total", self.total_ms, self.generated_tokens),
            ("first token", self.first_token_ms, None),
        ]
        rows: list[Cells] = []
        for step, ms, tokens in steps:
            if ms is not None:
                rate = _per_second(tokens, ms)
                rows.append((step, ms, tokens, rate and 1e3 / rate, rate))
        if self.guessed_tokens:
            rows.append(("guessed", None, self.guessed_tokens, None, None))
            rows.append(("guessed right", None, self.right_tokens, None, None))
        if self.cached_tokens:
            rows.append(("prompt from cache", None, self.cached_tokens, None, None))
        return html_table(_COLUMNS, rows)


_NAMES = tuple(f.name for f in fields(Timings))

_MARKER = re.compile(
    r"(?P<old>llama_print_timings)"
    r"|llama_perf_context_print|llama_perf_sampler_print|common_perf_print"
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What may stand before the marker of a real line: space, the marks of a quotation, a comment or a
# string in a notebook file, the time and level that llama.cpp's own programs print.
_LEAD = re.compile(r"[\s>#|\"']*(?:[\d.:]+\s+)?(?:[IWED]\s+)?")
_BODY = re.compile(
    r":\s*(?P<name>[a-z]+(?: [a-z]+)*)\s*=\s*(?P<value>-?\d+(?:\.\d+)?)"
    r"(?P<unit>\s*ms)?"
    r"(?:\s*/\s*(?P<count>\d+)\s*(?:tokens|runs))?"
    r"(?:\s*/\s*-?[\w.]+\s*%)?"
    # Derived columns are checked for their form only. The C library writes inf, nan, -nan(ind).
    r"(?:\s*\(\s*[-\w.()]+ ms per (?:token|run)(?:,\s*[-\w.()]+ tokens per second)?\)"
    r"|\s*\(total - [^)]*\) / \(total\))?\s*"
    r"(?:\\n)?[\"',]*\s*"
)
_FIELDS = {
    "load time": "load",
    "sample time": "sample",
    "sampling time": "sample",
    "samplers time": "sample",
    "prompt eval time": "prompt",
    "eval time": "eval",
    "total time": "total",
}
_CONTEXT_LINES = ("prompt eval time", "eval time", "total time")
_NEW_LINES = ("sampling time", "samplers time", "load time", *_CONTEXT_LINES)
_ORDER = {
    "old": ("load time", "sample time", *_CONTEXT_LINES),
    "new": (*_NEW_LINES, "unaccounted time", "graphs reused"),
}


def _timings_lines(text: str) -> Iterator[tuple[str, str, dict[str, float | int]]]:
    """Yield (form, name, figures) of every timings line; raise for one that cannot be read."""
    for raw in text.splitlines():
        line = _ANSI.sub("", raw)
        markers = list(_MARKER.finditer(line))
        ends = [marker.start() for marker in markers[1:]] + [len(line)]
        for marker, end in zip(markers, ends, strict=False):
            rest = line[marker.end() : end]
            family = "old" if marker["old"] else "new"
            match = _BODY.fullmatch(rest)
            if match and match["name"] in _ORDER[family] and _has_unit(match):
                if figures := _figures(match):  # some lines hold nothing that we keep
                    yield family, match["name"], figures
            elif _LEAD.fullmatch(line[: marker.start()]) and rest.startswith(":"):
                raise ValueError(
                    f"This line begins like a timings line, but cannot be read: {_preview(raw)}"
                )
            elif re.match(r":\s*[a-z ]+=", rest):
                # An answer without a final line break may stand before the marker.
                raise ValueError(f"This timings line cannot be read: {_preview(raw)}")


def _has_unit(match: re.Match[str]) -> bool:
    return bool(match["unit"]) == match["name"].endswith(" time")


def _figures(match: re.Match[str]) -> dict[str, float | int]:
    step = _FIELDS.get(match["name"])
    if step is None:
        return {}
    figures: dict[str, float | int] = {f"{step}_ms": float(match["value"])}
    if match["count"] and step not in ("load", "total"):
        figures[f"{step}_tokens"] = int(match["count"])
    return figures


def _per_second(tokens: int | None, ms: float | None) -> float | None:
    if not tokens or not ms or tokens < 0 or ms < 0:
        return None
    rate = tokens / ms * 1e3
    return rate if math.isfinite(rate) else None


def _line(name: str, ms: float | None, tokens: int | None = None, unit: str = "") -> str:
    if ms is None:
        return ""
    line = f"llama_print_timings: {name:>16} = {ms:8.2f} ms"
    if tokens is not None:
        line += f" / {tokens:5d} {unit:<6}"
        rate = _per_second(tokens, ms)
        if rate is not None:
            line += f" ({ms / tokens:8.2f} ms per token, {rate:8.2f} tokens per second)"
    return line.rstrip()


def _preview(text: str) -> str:
    shown = text.strip()
    return repr(shown if len(shown) <= 120 else shown[:120] + "…")
