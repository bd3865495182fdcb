"""Reads arguments that a model writes one by one, and gives them as one JSON object."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from helpers.chat.format import Fields
from helpers.chat.scanner import Emit, Ended, Scanner, Steps, match_loosely

_KINDS = {str: "string", bool: "boolean", type(None): "null", int: "number", float: "number"}


class FieldsReader:
    """Reads the arguments of one call.

    Args:
        scanner: The reply.
        form: How arguments are written.
        schema: The JSON Schema of the tool's parameters; it tells texts from numbers.
        before: The call's fixed text before the arguments.
        after: The call's fixed text after them.
    """

    def __init__(
        self, scanner: Scanner, form: Fields, schema: Any, before: str, after: str
    ) -> None:
        self._scanner, self._form, self._schema = scanner, form, schema
        self._before, self._after = before, after
        ends = (form.between, form.end, after)
        self._stops = {text.strip()[0] for text in ends if text.strip()}

    def read(self, emit: Emit) -> Steps[None]:
        """Read all arguments.

        Args:
            emit: Given the JSON text, piece by piece.

        Raises:
            Mismatch: They are written in another way.
        """
        scanner, form = self._scanner, self._form
        if form.begin.strip():
            yield from scanner.fixed(form.begin)
        emit("{")
        first = True
        while not (yield from self._at_end()):
            if not first and form.between.strip():
                yield from scanner.fixed(form.between)
            if form.name_begin.strip():
                yield from scanner.fixed(form.name_begin)
            name = yield from self._name()
            emit(("" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
            yield from self._value(name, emit)
            first = False
        emit("}")
        if form.end.strip():
            yield from scanner.fixed(form.end)

    def _at_end(self) -> Steps[bool]:
        """Whether no argument comes any more."""
        scanner, form = self._scanner, self._form
        yield from scanner.blanks()
        end = form.end.strip() or self._after.strip()
        go_on = form.name_begin.strip()
        while True:
            if scanner.at < len(scanner.text):
                ends = match_loosely(end, scanner.text, scanner.at) if end else -1
                goes_on = match_loosely(go_on, scanner.text, scanner.at) if go_on else -1
                if ends is not None and ends >= 0:
                    return True
                if goes_on is not None and goes_on >= 0:
                    return False
                if ends is not None and goes_on is not None:
                    # Neither: an argument where names have no mark, else what follows says.
                    return bool(go_on) and not form.between.strip()
            if scanner.ended:
                raise Ended
            yield

    def _name(self) -> Steps[str]:
        found: list[str] = []
        yield from self._upto(self._form.name_end.strip() or self._form.name_end, found.append)
        name = "".join(found).strip()
        if len(name) > 1 and name[0] == name[-1] == '"':
            name = name[1:-1]
        return name

    def _upto(self, end: str, emit: Emit) -> Steps[None]:
        """Read to the end of a text; `emit` is given what stands before it."""
        if not (yield from self._scanner.upto((end,), emit)):
            raise Ended

    # -- values -----------------------------------------------------------------------------------

    def _value(self, name: str, emit: Emit) -> Steps[None]:
        form, scanner = self._form, self._scanner
        kinds = self._kinds(name)
        yield from self._margin(form.name_end)
        if form.deep:
            yield from self._deep(emit)
        elif form.strings == "json":
            yield from self._literal(kinds, emit)
        elif not form.string_begin.strip() and form.string_end + form.value_end:
            if kinds == {"string"}:
                yield from self._raw(emit)
                return  # its end has been read
            found: list[str] = []
            if kinds and "string" not in kinds:
                yield from scanner.blanks()
            if not kinds or "string" in kinds or (yield from scanner.peek(1)) not in ("{", "["):
                yield from self._text(found.append)
                emit(_as_json("".join(found), kinds))
                return
            # What ends a value may stand in a text inside of a list or an object.
            yield from self._bracketed(found.append)
            emit(_as_json("".join(found), kinds))
        elif (yield from scanner.matches(form.string_begin)):
            yield from self._raw(emit)
            return
        elif scanner.ended:
            raise Ended
        else:
            if form.value_begin.strip():
                yield from scanner.fixed(form.value_begin)
            yield from self._literal(kinds, emit)
        if form.value_end.strip():
            yield from scanner.fixed(form.value_end)

    def _deep(self, emit: Emit) -> Steps[None]:
        """A value in which all is written as outside of it."""
        form, scanner = self._form, self._scanner
        if (yield from scanner.matches(form.string_begin)):
            yield from self._raw(emit)
            return
        first = yield from scanner.peek(1)
        if first not in ("{", "["):
            yield from self._literal(set(), emit)
            return
        scanner.take(scanner.at + 1)
        emit(first)
        more = False
        while True:
            yield from scanner.blanks()
            if (yield from scanner.peek(1)) in ("}", "]"):
                emit(scanner.take(scanner.at + 1))
                return
            if more:
                yield from scanner.fixed(form.between or ",")
            emit(", " if more else "")
            if first == "{":
                emit(json.dumps((yield from self._name()), ensure_ascii=False) + ": ")
            yield from self._deep(emit)
            more = True

    def _margin(self, text: str) -> Steps[None]:
        """Read the whitespace at a fixed text's end, as far as it comes."""
        for char in text[len(text.rstrip()) :]:
            if (yield from self._scanner.peek(1)) != char:
                return
            self._scanner.take(self._scanner.at + 1)

    def _raw(self, emit: Emit) -> Steps[None]:
        """A text as it is, as a JSON string."""
        emit('"')
        yield from self._text(lambda text: emit(json.dumps(text, ensure_ascii=False)[1:-1]))
        emit('"')

    def _text(self, emit: Emit) -> Steps[None]:
        """A text up to what ends it, without the whitespace that belongs to that."""
        form = self._form
        end = form.string_end + form.value_end
        wrap = form.wrap_begin
        if wrap and (yield from self._scanner.peek(len(wrap))) == wrap:
            self._scanner.take(self._scanner.at + len(wrap))
            yield from self._upto(form.wrap_end + end.strip(), emit)
            return
        bare = end.strip() or end
        margin = end[: len(end) - len(end.lstrip())] if end.strip() else ""
        held = ""

        def keep(text: str) -> None:
            # The end of the value is the margin, where it is written.
            nonlocal held
            held += text
            wait = len(held) - len(margin)
            if wait > 0:
                emit(held[:wait])
                held = held[wait:]

        yield from self._upto(bare, keep)
        emit(held[: len(held) - _common_end(held, margin)])

    def _literal(self, kinds: set[str], emit: Emit) -> Steps[None]:
        """A value as JSON or Python writes it, up to what cannot be a part of it."""
        scanner = self._scanner
        yield from scanner.blanks()
        first = yield from scanner.peek(1)
        found: list[str] = []
        if not first:
            raise Ended
        if first == '"' and self._form.values == "json":
            yield from scanner.json_value(emit)
            return
        if first == "'" or (first == '"' and self._form.values == "python"):
            yield from self._quoted(found.append)
        elif first in "{[":
            yield from self._bracketed(found.append)
        else:
            stops = self._form.value_end.strip()[:1] or "".join(sorted(self._stops)) + "]}"
            yield from scanner.until(re.compile(f"[{re.escape(stops)}]"), found.append)
        emit(_as_json("".join(found), kinds))

    def _quoted(self, emit: Emit) -> Steps[None]:
        """A string as Python writes it, on one line."""
        scanner = self._scanner
        sign = scanner.text[scanner.at]
        emit(scanner.take(scanner.at + 1))
        stops = re.compile(rf"[{sign}\\]")
        while True:
            if not (yield from scanner.until(stops, emit)):
                raise Ended
            stop = scanner.take(scanner.at + 1)
            emit(stop)
            if stop == sign:
                return
            while not (yield from scanner.peek(1)):
                yield from scanner.more()
            emit(scanner.take(scanner.at + 1))

    def _bracketed(self, emit: Emit) -> Steps[None]:
        """A list or dict with all that is in it."""
        scanner, depth = self._scanner, 0
        stops = re.compile(r"""(?=["'])|[{}\[\]]""")
        while True:
            found = stops.search(scanner.text, scanner.at)
            if found is None:
                emit(scanner.take(len(scanner.text)))
                yield from scanner.more()
                continue
            emit(scanner.take(found.end()))
            if not found[0]:
                yield from self._quoted(emit)
                continue
            depth += 1 if found[0] in "{[" else -1
            if depth <= 0:
                return

    # -- schemas ----------------------------------------------------------------------------------

    def _kinds(self, name: str) -> set[str]:
        """JSON's types that an argument may have; empty where the schema does not say."""
        found: set[str] = set()
        schema = self._schema if isinstance(self._schema, Mapping) else {}
        properties = schema.get("properties")
        one = properties.get(name) if isinstance(properties, Mapping) else None
        if one is None or not self._collect(one, found, 0):
            return set()
        return found

    def _collect(self, schema: Any, found: set[str], depth: int) -> bool:
        """Add the types that a schema allows; False where it does not say."""
        if not isinstance(schema, Mapping) or depth > 10:
            return False
        if isinstance(reference := schema.get("$ref"), str):
            target: Any = self._schema
            for part in reference.removeprefix("#").strip("/").split("/"):
                target = target.get(part) if isinstance(target, Mapping) else None
            return self._collect(target, found, depth + 1)
        kind = schema.get("type")
        if kind is not None:
            found |= {kind} if isinstance(kind, str) else set(kind)
            return True
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            found |= {_KINDS.get(type(value), "object") for value in values}
            return True
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if not isinstance(options, list):
            return False
        known = [self._collect(option, found, depth + 1) for option in options]
        return all(known)


def _common_end(text: str, margin: str) -> int:
    """How much of a margin's end is the end of a text."""
    return next((n for n in range(len(margin), 0, -1) if text.endswith(margin[-n:])), 0)


def _as_json(text: str, kinds: set[str]) -> str:
    """A value as JSON, from however the model wrote it; what nobody can read is a string."""
    bare = text.strip()
    readers: tuple[Callable[[str], str], ...] = (_json, _python)
    if kinds == {"string"} and bare[:1] not in ('"', "'"):
        readers = ()
    for reader in readers:
        try:
            return reader(bare)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return json.dumps(text, ensure_ascii=False)


def _json(text: str) -> str:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    json.loads(text, parse_constant=refuse)
    return text  # with all digits


def _python(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that are none in Python
        value = ast.literal_eval(text)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # JSON's escapes of one character in two halves, which Python takes for two characters.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
