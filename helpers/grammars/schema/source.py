"""Grammars for JSON that a JSON Schema describes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from helpers.errors import GrammarError
from helpers.grammars.explain import Explanation, matching, mismatch
from helpers.grammars.guidance import compile_guidance, end_of_match, expected_next
from helpers.grammars.places import error_at
from helpers.grammars.schema import json_text
from helpers.grammars.schema.dialect import SIMPLE, escape, invalid_schema
from helpers.grammars.schema.domains import ANYTHING, Domain, Links, reordered
from helpers.grammars.schema.ecma import RegexError
from helpers.grammars.schema.emit import Emitter, check_size
from helpers.grammars.schema.normalize import Normalizer
from helpers.grammars.schema.plain import plain_json
from helpers.grammars.schema.scalars import Inexpressible

if TYPE_CHECKING:
    from helpers.grammars.mask.vocabulary import Vocabulary

MAX_LENGTH = 5_000_000
"""Characters in a schema's text."""
MAX_VALUES = 100_000
"""Objects, lists and numbers in a schema; llguidance takes some ten thousand schemas."""
MAX_DEPTH = 500
"""Values inside each other; Python's `json` reads and writes them by recursion."""
MAX_NUMBER = 10**300
"""Larger whole numbers cannot be turned into floats, and some not even into text."""
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between two parts of a document: without an end, some models write blanks forever."""


class SchemaSource:
    """Reads a JSON Schema and compiles it for llguidance.

    Args:
        schema: The schema, as for `load_schema`.
        strict: Whether what cannot be enforced is an error; else it is left out and listed.

    Attributes:
        compiled: The schema as llguidance enforces it exactly.

    Raises:
        GrammarError: With `keyword` and `pointer` of what cannot be enforced, or is wrong.
    """

    kind = "JSON Schema"
    gbnf = None
    rules = None

    def __init__(self, schema: Any, *, strict: bool) -> None:
        schema = load_schema(schema)
        normalizer = Normalizer(schema, strict=strict)
        emitter = Emitter(normalizer)
        try:
            self._domain: Domain = normalizer.domain(schema, "", 0)
            self.compiled: dict[str, Any] = emitter.run(self._domain)
            self._text = json.dumps(schema)
        except RecursionError as error:
            raise invalid_schema("it nests or refers too deeply") from error
        except (Inexpressible, RegexError) as error:
            # From a link: what it stands for is only computed when it is written.
            keyword = error.keyword if isinstance(error, Inexpressible) else "pattern"
            normalizer.report(keyword, "", f"cannot be expressed where references meet ({error})")
            self._domain, self.compiled = ANYTHING, {}
        self._links: Links = normalizer.links
        self._parts = emitter.parts
        try:
            check_size(self.compiled)
            self._bytes = compile_guidance(self.guidance(None, forcing=False))
        except GrammarError as error:
            keyword, place = _keyword_in(str(error), schema)
            reason = "it has no value that a grammar could lead to, or is too large"
            normalizer.report(keyword, place, f"{reason} ({str(error)[-200:]})")
            self._domain, self.compiled = ANYTHING, {}
            self._bytes = compile_guidance(self.guidance(None, forcing=False))
        self.relaxed = tuple(normalizer.relaxed)
        self.warnings = tuple(normalizer.warnings)

    @property
    def schema(self) -> Any:
        """The schema; a copy each time, so that nobody changes it."""
        return json.loads(self._text)

    def content(self) -> str:
        """The schema as JSON; the order of members matters."""
        return self._text

    def matches(self, text: str, *, any_order: bool) -> bool:
        """Whether a text is JSON that the schema allows, as the model would have to write it."""
        try:
            value = json_text.read(text)
            if any_order:
                value = json_text.plain(value)
                value = reordered(self._domain, value, self._links, self._parts)
            text = json_text.write(value)
        except (Inexpressible, RegexError) as error:
            raise GrammarError(
                f"The text cannot be judged with keys in any order: {error}."
            ) from error
        except ValueError:
            return False
        except RecursionError:
            pass  # nests too deep for Python's parser; judged as it is
        return end_of_match(self._bytes, text)[1]

    def explain(self, text: str) -> Explanation:
        """Where a text stops matching; positions refer to the text as it is given."""
        if self.matches(text, any_order=False):
            return matching(text)
        syntax_error: int | None = None
        try:
            json_text.read(text)
        except json.JSONDecodeError as error:
            syntax_error = error.pos
        except (ValueError, RecursionError):
            pass
        lead = len(text) - len(text.lstrip(" \t\r\n"))
        end, _, matcher = end_of_match(self._bytes, text[lead:])
        expected = expected_next(matcher)
        position = lead + end
        # Of a text that only ends too early, json names where its last string begins.
        if syntax_error is not None and syntax_error < position < len(text):
            position, expected = syntax_error, ("JSON",)
        return mismatch(text, position, expected)

    def problems(self, text: str) -> list[str]:
        """What the `jsonschema` package finds wrong with a text, one line per problem."""
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for

        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return [f"not JSON: {error}"]
        schema = self.schema
        kind = validator_for(schema, default=Draft202012Validator)
        checker = kind(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        try:
            return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(value)]
        except Exception as error:
            # jsonschema lets errors of its reference and regex packages through as they are.
            raise invalid_schema(f"jsonschema cannot use it ({error})") from error

    def guidance(self, vocabulary: Vocabulary | None, *, forcing: bool) -> str:
        """The grammar in the form that llguidance reads."""
        head = "" if forcing else '%llguidance {"no_forcing": true}\n'
        compiled = {**self.compiled, "x-guidance": {"whitespace_pattern": WHITESPACE}}
        return f"{head}start: %json {json.dumps(compiled)}\n"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as its schema, which is read again: links hold functions."""
        return partial(SchemaSource, strict=not self.relaxed), (self.schema,)


def _keyword_in(message: str, schema: Any) -> tuple[str, str]:
    """The keyword that a message of llguidance is about, and a schema that contains it."""
    todo = [(schema, "")]
    first: tuple[str, str] | None = None
    while todo:
        node, pointer = todo.pop()
        pairs = node.items() if isinstance(node, dict) else ()
        for key, value in pairs:
            if first is None and key in SIMPLE:
                first = key, pointer
            if key in SIMPLE and re.search(rf"\b{key}\b", message):
                return key, pointer
            todo.append((value, f"{pointer}/{escape(key)}"))
        if isinstance(node, list):
            todo += [(item, f"{pointer}/{at}") for at, item in enumerate(node)]
    return first or ("schema", "")


def load_schema(schema: Any) -> Any:
    """A schema from a dict, or from JSON text.

    Args:
        schema: A dict, a bool, or a str or bytes of JSON. Enums, tuples, NumPy's numbers and
            subclasses in it become what JSON has.

    Returns:
        The schema; a copy of plain values.

    Raises:
        GrammarError: If it is neither, or holds what JSON does not have.
    """
    if isinstance(schema, bytes | bytearray):
        schema = bytes(schema).decode("utf-8", "replace")
    if isinstance(schema, str):
        if len(schema) > MAX_LENGTH:
            raise GrammarError(f"The schema has more than {MAX_LENGTH} characters.")
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise error_at(schema, error.pos, f"the schema is not JSON: {error.msg}.") from error
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"The schema cannot be read: {error}.") from error
    schema = plain_json(schema)
    if not isinstance(schema, dict | bool):
        kind = type(schema).__name__
        raise invalid_schema(f"a dict, a bool or JSON text is needed, not {kind}")
    _check_json_values(schema)
    return schema


def _check_json_values(schema: Any) -> None:
    """Refuse what JSON does not have: infinities, NaN (Python's parser lets them pass), objects.

    Refuses too many and too deep values, too: where a schema only holds data, nothing else looks.
    """
    todo: list[tuple[Any, _Place, int]] = [(schema, None, 0)]
    seen: set[int] = set()  # a schema made in Python may contain itself
    count = 0
    while todo:
        node, place, depth = todo.pop()
        reason = ""
        if isinstance(node, str):
            continue
        count += 1
        if count > MAX_VALUES:
            reason = f"the schema has more than {MAX_VALUES:,} objects, lists and numbers"
        elif isinstance(node, dict | list | tuple):
            if depth > MAX_DEPTH:
                reason = f"values nest more than {MAX_DEPTH} deep"
            elif id(node) not in seen:
                seen.add(id(node))
                pairs = node.items() if isinstance(node, dict) else enumerate(node)
                todo += [(value, (place, key), depth + 1) for key, value in pairs]
                if isinstance(node, dict) and not all(isinstance(key, str) for key in node):
                    key = next(key for key in node if not isinstance(key, str))
                    reason = f"the key {key!r} is not a string"
        elif isinstance(node, float) and not math.isfinite(node):
            reason = f"{node} is not a JSON number"
        elif isinstance(node, int) and abs(node) > MAX_NUMBER:
            reason = "a whole number of more than 300 digits"
        elif isinstance(node, Decimal):
            reason = f"a number that needs more digits than JSON's readers keep: {str(node)[:40]}"
        elif node is not None and not isinstance(node, int | float):
            reason = f"an object of type {type(node).__name__} is not JSON"
        if reason:
            parts = list(_parts(place))[::-1]
            keyword = next((part for part in reversed(parts) if isinstance(part, str)), "schema")
            pointer = "".join(f"/{escape(str(part))}" for part in parts[:20])
            raise invalid_schema(reason, pointer, keyword)


_Place = tuple["_Place", Any] | None
"""Where a value is: the place of what holds it, and its key there."""


def _parts(place: _Place) -> Iterator[Any]:
    while place is not None:
        place, part = place
        yield part
