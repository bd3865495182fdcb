"""Chat templates, rendered in a child process that is kept for the next call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.children import Child
from helpers.errors import EngineCrashed, ModelFileError
from helpers.prompt import Prompt

# A template takes about a millisecond; the longest published ones, with many tools, a few.
_SECONDS = 5.0
_OTHER = "Pass a working one with chat_template=…, or write the prompt by hand."

_child = Child(
    Path(__file__).with_name("render_child.py"), role="rendered the chat template", remedy=_OTHER
)


def render(
    template: str,
    values: dict[str, Any],
    whose: str,
    seconds: float | None = None,
    *,
    own: Mapping[str, str] | None = None,
) -> Prompt:
    """Render a chat template.

    Args:
        template: Jinja source.
        values: Its variables, whose texts are content; they must be such that JSON can carry them.
        whose: Which model it belongs to, for messages.
        seconds: Longest time to wait; None takes 5 s.
        own: Further variables, whose texts count as written by the template: control tokens.

    Returns:
        The text, its parts told apart.

    Raises:
        ModelFileError: The template is invalid, refuses the messages, or does not end.
        TypeError: A variable is nothing that JSON can carry.
    """
    limit = _SECONDS if seconds is None else seconds
    try:
        request = {"template": template, "values": values, "own": own or {}, "seconds": limit}
        answer = _child.ask(request, limit)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"What the chat template of {whose} is given cannot be written as JSON: {error}. Give "
            "texts, numbers, True, False, None, and lists and dicts of these."
        ) from error
    except TimeoutError:
        raise ModelFileError(
            f"The chat template of {whose} did not end within {limit:g} s. {_OTHER}"
        ) from None
    except EngineCrashed as error:
        raise ModelFileError(f"The chat template of {whose} fails: {error}") from error
    if "refused" in answer:
        raise ModelFileError(
            f"The chat template of {whose} refuses these messages: {answer['refused']}. Change the "
            "messages (their roles and order), or pass another template with chat_template=…"
        )
    if "invalid" in answer:
        raise ModelFileError(
            f"The chat template of {whose} is not valid Jinja: {answer['invalid']}. {_OTHER}"
        )
    if "failed" in answer:
        raise ModelFileError(f"The chat template of {whose} fails: {answer['failed']}. {_OTHER}")
    return Prompt((text, own) for text, own in answer["parts"])
