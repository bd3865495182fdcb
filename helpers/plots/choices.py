"""What a mask does to one token: the likeliest choices, and which of them the grammar refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.plots.style import OTHER, PROMPT, finish, new_figure, paint, style_axes, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.grammars.mask.trace import TokenChoice, TracedToken

_WORDS = {True: "✓ allowed", False: "✗ refused", None: "? part of a character"}


def plot_choices(token: TracedToken, *, title: str, ax: Axes | None = None) -> Figure:
    """Draw the likeliest choices for one token, and which of them the grammar refused.

    Args:
        token: One entry of `trace_choices`.
        title: What the figure shows.
        ax: Where to draw; default: a new figure.

    Returns:
        The figure that was drawn on.

    Raises:
        ValueError: The token has no choices: the call was made with `logprobs=0`.
    """
    choices = token.choices
    if not choices:
        raise ValueError("There is nothing to draw: call the model with logprobs=10 or so.")
    if ax is None:
        ax = new_figure(8.0, 1.1 + 0.36 * len(choices)).subplots()
    bars = ax.barh(range(len(choices)), [choice.probability for choice in choices], height=0.68)
    longest = max(choice.probability for choice in choices)
    for place, (bar, choice) in enumerate(zip(bars, choices, strict=True)):
        look = PROMPT if choice.allowed else OTHER
        paint([bar], look._replace(name=_WORDS[choice.allowed]))
        write(ax, note(choice, taken=choice.text == token.text), choice.probability, place)
    ax.set_yticks(range(len(choices)), [shown(choice.text) for choice in choices])
    for label in ax.get_yticklabels():
        label.set_fontfamily("monospace")
    ax.invert_yaxis()
    ax.set_xlim(0, longest * 1.45)
    ax.set_xlabel("probability before the mask")
    style_axes(ax, title, lines_under_title=0)
    said = ", ".join(f"{shown(choice.text)} {_WORDS[choice.allowed][2:]}" for choice in choices)
    return finish(ax, f"{title}: {said}")


def shown(text: str) -> str:
    """A token's text as a Python string; the end of the answer in words.

    >>> shown(" yes"), shown("")
    ("' yes'", '(end of the answer)')
    """
    return repr(text) if text else "(end of the answer)"


def note(choice: TokenChoice, *, taken: bool) -> str:
    """The words behind a bar: how likely, allowed or not, and whether this one was taken."""
    percent = 100 * choice.probability
    number = f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
    return f"{number}  {_WORDS[choice.allowed]}{', taken' if taken else ''}"
