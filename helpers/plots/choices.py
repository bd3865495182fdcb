"""What a mask does to one token: the likeliest choices, before it and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers.plots.style import OTHER, PROMPT, finish, new_figure, paint, style_axes, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.grammars.mask.trace import TokenChoice, TracedToken

_WORDS = {True: "✓ allowed", False: "✗ refused", None: "? part of a character"}
_LEFT_SHOWN = 4  # of the choices that the mask left: few, as most of them are never taken


def plot_choices(
    token: TracedToken, *, title: str, count: int = 7, ax: Sequence[Axes] | None = None
) -> Figure:
    """Draw the choices for one token twice: as the model made them, and as the mask left them.

    After the mask, the probabilities of the choices that are allowed add up to one again. How much
    of the first panel they were is its title: the rest is what the mask took away. Both are exact
    where `logprobs` was the size of the vocabulary.

    Args:
        token: One entry of `trace_choices`.
        title: What the figure shows.
        count: How many of the likeliest choices are shown; up to four allowed ones come below
            them, and the one that was taken always.
        ax: Where to draw, two Axes; default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: The token has no choices: the call was made with `logprobs=0`.
    """
    if not token.choices:
        raise ValueError("There is nothing to draw: call the model with logprobs=10 or so.")
    rows = _rows(token, count)
    if ax is None:
        ax = new_figure(9.5, 1.3 + 0.33 * len(rows)).subplots(
            1, 2, sharey=True, width_ratios=(1.25, 1.0)
        )
    before, after = ax
    taken = [choice.text == token.text for choice in rows]
    notes = [f"{percent(row.probability)}  {_WORDS[row.allowed]}" for row in rows]
    _draw(before, rows, [choice.probability for choice in rows], notes)
    left = [_after(choice, token.kept) for choice in rows]
    _draw(
        after,
        rows,
        left,
        [
            f"{percent(share)}{'  taken' if chosen else ''}" if share or chosen else "0"
            for share, chosen in zip(left, taken, strict=True)
        ],
    )
    before.set_yticks(range(len(rows)), [shown(choice.text) for choice in rows])
    for label in before.get_yticklabels():
        label.set_fontfamily("monospace")
    before.set_ylim(len(rows) - 0.5, -0.5)
    after.tick_params(axis="y", length=0, labelleft=False)
    before.set_xlabel("probability before the mask")
    after.set_xlabel(f"after it: the {percent(token.kept)} that it left, as 100 %")
    style_axes(before, title, lines_under_title=0)
    style_axes(after, "", lines_under_title=0)
    said = ", ".join(f"{shown(choice.text)} {_WORDS[choice.allowed][2:]}" for choice in rows)
    return finish(before, f"{title}: {said}; the mask left {percent(token.kept)}")


def _rows(token: TracedToken, count: int) -> list[TokenChoice]:
    """The likeliest choices, the likeliest of those that the mask left, and the one taken."""
    rows = list(token.choices[:count])
    left = [choice for choice in token.choices if choice.allowed][:_LEFT_SHOWN]
    taken = [choice for choice in token.choices if choice.text == token.text]
    return rows + [choice for choice in dict.fromkeys([*left, *taken]) if choice not in rows]


def _after(choice: TokenChoice, kept: float) -> float:
    return choice.probability / kept if choice.allowed and kept else 0.0


def _draw(
    ax: Axes, rows: Sequence[TokenChoice], lengths: Sequence[float], notes: Sequence[str]
) -> None:
    bars: Any = ax.barh(range(len(rows)), lengths, height=0.68)
    for place, (bar, choice, note) in enumerate(zip(bars, rows, notes, strict=True)):
        look = PROMPT if choice.allowed else OTHER
        paint([bar], look._replace(name=_WORDS[choice.allowed]))
        write(ax, note, lengths[place], place)
    room = (max(lengths) or 1.0) * 1.55  # for the notes; no probability is more than 1
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= min(room, 1.0)])
    ax.set_xlim(0, room)


def shown(text: str) -> str:
    """A token's text as a Python string; the end of the answer in words.

    >>> shown(" yes"), shown("")
    ("' yes'", '(end of the answer)')
    """
    return repr(text) if text else "(end of the answer)"


def percent(share: float) -> str:
    """A share with the digits that matter when it is small.

    >>> percent(0.4264), percent(0.0016), percent(0.00001), percent(1.0)
    ('42.6 %', '0.16 %', '< 0.01 %', '100 %')
    """
    if share < 0.0001:
        return "< 0.01 %"
    digits = 2 if share < 0.01 else 1 if share < 0.9995 else 0
    return f"{100 * share:.{digits}f} %"
