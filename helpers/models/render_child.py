"""The process in which chat templates are rendered.

A chat template is a program that came with a download. Jinja's sandbox keeps it away from files and
attributes, but not from looping for days or asking for a string of ten gigabytes; a thread cannot
be stopped, a process can. This file runs as a script, with `helpers.children`,
`helpers.marked_text`, the standard library and Jinja only, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
from collections.abc import Generator
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from helpers.children import Parent
from helpers.marked_text import MarkedEnvironment, marked, parts_of

MAX_MEMORY = 2**30
MAX_OUTPUT = 2**25
_GRACE_SECONDS = 5.0
_ROLES = {"system", "user", "assistant", "tool", "developer", "function", "ipython"}
"""Templates make control tokens of these, such as `'<|' + message.role + '|>'`. A role that is one
of them says who speaks, whoever wrote it; any other is a text like all others."""


class _Refused(Exception):
    """The template called `raise_exception`."""


class _GenerationTag(jinja2.ext.Extension):
    """Marks the answer for training, `{% generation %}…{% endgeneration %}`: its inside is kept."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object = "") -> None:
    raise _Refused(str(message))


def _now(style: str) -> str:
    return datetime.now().strftime(style)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Plain JSON, where Jinja's own filter escapes for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_to_list,
    )


def _to_list(value: object) -> list[Any]:
    # What `map` and `select` give; published templates write it without `list`.
    if isinstance(value, Generator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    # The settings are those of the `transformers` library, for which chat templates are written
    # (its documentation, "Writing a chat template"), but that lists may grow: the values are this
    # process's own, and published templates (Kimi-K2) keep a list of ids.
    environment = MarkedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationTag],
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=_now)
    return environment.from_string(source)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    # The owner ends this process in time. Where the owner has died, a C thread does: it works even
    # while Python is inside one long call.
    faulthandler.dump_traceback_later(request["seconds"] + _GRACE_SECONDS, exit=True)
    try:
        return _render(request)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _render(request: dict[str, Any]) -> dict[str, Any]:
    own = {name: marked(text) for name, text in request["own"].items()}
    for message in request["values"].get("messages", ()):
        if isinstance(message["role"], str) and message["role"] in _ROLES:
            message["role"] = marked(message["role"])
    try:
        text = _compile(request["template"]).render(**request["values"], **own)
    except _Refused as error:
        return {"refused": str(error)}
    except jinja2.TemplateSyntaxError as error:
        return {"invalid": f"{error.message} (line {error.lineno})"}
    except MemoryError:
        return {"failed": "it needs too much memory"}
    except RecursionError:
        return {"failed": "it calls itself without end"}
    except Exception as error:
        # Whatever a template does wrong is its author's error, not ours: an answer.
        return {"failed": f"{type(error).__name__}: {error}"}
    if len(text) > MAX_OUTPUT:
        return {"failed": f"it made a text of {len(text):,} characters"}
    return {"parts": parts_of(text)}


def _limit_memory() -> None:
    # Not on Windows, and macOS may refuse: there only the time is limited.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


if __name__ == "__main__":
    parent = Parent()
    _limit_memory()
    parent.serve(_answer)
