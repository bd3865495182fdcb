"""Grammars as JSON: what they were written in, so that the other side reads and checks it anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from helpers.chat.format import ChatFormat, Fields, Reasoning, Slot, ToolFormat
from helpers.chat.grammar import ReplySource
from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.remote.errors import InvalidField, shown, unknown_field

_REPLY = ("form", "tools", "forced", "parallel", "thinking", "content", "strict")
_SOURCES = ("gbnf", "json_schema", "reply")
_KEPT = 64
"""Grammars that are kept as they were read: a class asks for the same one again and again."""


def grammar_to_json(grammar: Grammar) -> dict[str, Any]:
    """A grammar as what it was written in.

    >>> grammar_to_json(Grammar.from_string('root ::= "yes" | "no"'))
    {'gbnf': 'root ::= "yes" | "no"'}
    """
    if grammar.gbnf is not None:
        return {"gbnf": grammar.gbnf}
    source = grammar._source
    if not isinstance(source, ReplySource):
        return {"json_schema": grammar.schema, "strict": not grammar.relaxed}
    reply = {
        "form": _form_to_json(source.form),
        "tools": source.schemas,
        "forced": source.forced,
        "parallel": source.parallel,
        "thinking": source.thinking,
        "content": None if source.inner is None else grammar_to_json(source.inner),
        "strict": source.strict,
    }
    return {"reply": reply}


def grammar_from_json(value: Any) -> Grammar:
    """Read and check a grammar; equal ones that were read lately are the same object.

    Args:
        value: GBNF as a text, or an object with "gbnf", "json_schema" or "reply".

    Raises:
        GrammarError: It is wrong, or cannot be enforced.
        ValueError: It has no such form.
        TypeError: A part of it is of the wrong kind.
    """
    if isinstance(value, str):
        value = {"gbnf": value}
    if not isinstance(value, dict) or len(set(value) & set(_SOURCES)) != 1:
        raise InvalidField(
            "grammar must be GBNF as a text, or an object with one of gbnf, json_schema and reply.",
            "grammar",
        )
    try:
        text = json.dumps(value)
    except RecursionError:
        raise InvalidField("grammar nests too deeply.", "grammar") from None
    return _read(text)


@lru_cache(maxsize=_KEPT)
def _read(text: str) -> Grammar:
    value = json.loads(text)
    if "gbnf" in value:
        _only(value, ("gbnf",), "grammar")
        return Grammar.from_string(_typed("gbnf", value["gbnf"], str))
    if "json_schema" in value:
        _only(value, ("json_schema", "strict"), "grammar")
        strict = _typed("strict", value.get("strict", True), bool)
        return Grammar.from_json_schema(value["json_schema"], strict=strict)
    return _read_reply(value)


def _read_reply(value: dict[str, Any]) -> Grammar:
    _only(value, ("reply",), "grammar")
    given = _typed("reply", value["reply"], dict)
    _only(given, _REPLY, "grammar.reply")
    if missing := [name for name in ("form", "tools") if name not in given]:
        raise InvalidField(f"grammar.reply has no {missing[0]!r}.", "grammar")
    form = _form_from_json(ChatFormat, given["form"], "grammar.reply.form")
    slots = [part for part in form.tools.call if isinstance(part, Slot)]
    if slots.count(Slot.ARGUMENTS) != 1 or Slot.NAME not in slots:
        raise InvalidField("grammar.reply.form: a call needs a name and arguments.", "grammar")
    tools = _typed("tools", given["tools"], dict)
    content, thinking = given.get("content"), given.get("thinking")
    if not tools and content is None:
        raise InvalidField("grammar.reply has neither tools nor content.", "grammar")
    if isinstance(content, dict) and "reply" in content:
        raise InvalidField("grammar.reply: its content cannot be a reply itself.", "grammar")
    if thinking is not None:
        _typed("thinking", thinking, bool)
    inner = None if content is None else grammar_from_json(content)
    try:
        source = ReplySource(
            form,
            tools,
            _typed("forced", given.get("forced", False), bool),
            _typed("parallel", given.get("parallel", True), bool),
            thinking,
            inner,
            strict=_typed("strict", given.get("strict", True), bool),
        )
    except (GrammarError, ValueError, TypeError):
        raise
    except Exception as error:  # a form that no template has
        raise GrammarError(f"grammar.reply.form cannot be used ({error!r}).") from error
    return Grammar(source)


def _form_to_json(value: Any) -> Any:
    """A format, and what is in it, as JSON."""
    if isinstance(value, Slot):
        return {"slot": value.value}
    if isinstance(value, tuple):
        return [_form_to_json(one) for one in value]
    if isinstance(value, ChatFormat | ToolFormat | Fields | Reasoning):
        return {field.name: _form_to_json(getattr(value, field.name)) for field in fields(value)}
    return value


def _form_from_json(kind: Any, value: Any, place: str) -> Any:
    """A value of an annotated type; whatever does not suit it is refused."""
    if kind in (ChatFormat, ToolFormat, Fields, Reasoning):
        hints = get_type_hints(kind)
        _only(_typed(place, value, dict), hints, place)
        given = {
            name: _form_from_json(hints[name], one, f"{place}.{name}")
            for name, one in value.items()
        }
        if missing := [
            field.name
            for field in fields(kind)
            if field.name not in given and field.default is MISSING
        ]:
            raise InvalidField(f"{place} has no {missing[0]!r}.", "grammar")
        return kind(**given)
    if kind is Slot:
        return Slot(_typed(place, value, dict).get("slot"))
    if kind in (str, bool, int):
        return _typed(place, value, kind)
    if kind is type(None):
        return _typed(place, value, type(None))
    options = get_args(kind)
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in options:
            raise InvalidField(
                f"{place}={shown(value)} must be one of {', '.join(options)}.", "grammar"
            )
        return value
    if get_origin(kind) is tuple:
        items = _typed(place, value, list)
        kinds = (options[0],) * len(items) if options[1:] == (...,) else options
        if len(items) != len(kinds):
            raise InvalidField(f"{place} must have {len(kinds)} values.", "grammar")
        return tuple(
            _form_from_json(one, item, f"{place}[{number}]")
            for number, (one, item) in enumerate(zip(kinds, items, strict=True))
        )
    for option in options:  # of a union: the first that suits
        try:
            return _form_from_json(option, value, place)
        except (TypeError, ValueError):
            continue
    raise InvalidField(f"{place}={shown(value)} has no meaning there.", "grammar")


def _typed(place: str, value: Any, kind: type) -> Any:
    """A value, if it is exactly of this kind: True is no number."""
    if type(value) is not kind:
        raise TypeError(f"{place}={shown(value)} must be of type {kind.__name__}.")
    return value


def _only(value: Mapping[str, Any], known: Any, place: str) -> None:
    for name in value:
        if name not in known:
            raise unknown_field(name, known, place, "grammar")
