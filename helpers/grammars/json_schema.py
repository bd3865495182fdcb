"""Grammars for JSON that a JSON Schema describes."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import GrammarError
from . import json_text
from .emit import Emitter
from .explain import Explanation, describe, matching
from .grammar import Grammar
from .keywords import SIMPLE, escape
from .normalize import Normalizer
from .shapes import ANYTHING, Links, Shape, ordered

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from .recognizer import Program
    from .syntax import Rules
    from .vocabulary import Vocabulary

MAX_LENGTH = 5_000_000
"""Characters in a schema's text."""
MAX_NUMBER = 10**300
"""Larger whole numbers cannot be turned into floats, and some not even into text."""
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between two parts of a document: without an end, some models write blanks for ever."""


class JsonGrammar(Grammar):
    """A grammar made from a JSON Schema; made by `Grammar.from_json_schema`."""

    def __init__(self, schema: Any, *, strict: bool) -> None:
        normalizer = Normalizer(schema, strict=strict)
        try:
            self._shape: Shape = normalizer.run()
            self._compiled = Emitter(normalizer).run(self._shape)
        except RecursionError as error:
            raise normalizer.broken("", "", "it nests or refers too deep") from error
        super().__init__(rules={}, source="")
        self.schema = schema
        self.relaxed = tuple(normalizer.relaxed)
        self.warnings = tuple(normalizer.warnings)
        self._links: Links = normalizer.links
        self._bytes: LLMatcher | None = None
        try:
            self._check_json()
        except GrammarError as error:
            keyword, place = _guilty(str(error), schema)
            reason = "it has no value that a grammar could lead to, or is too large"
            normalizer.cannot(keyword, place, f"{reason} ({str(error)[-200:]})")
            self.relaxed = tuple(normalizer.relaxed)
            self._shape, self._compiled = ANYTHING, {}
            self._check_json()

    @property
    def gbnf(self) -> str | None:
        """None: a JSON Schema's grammar is compiled without GBNF."""
        return None

    @property
    def rules(self) -> Rules | None:
        """None: a JSON Schema's grammar is compiled without GBNF."""
        return None

    def matches(self, text: str, *, any_order: bool = False) -> bool:
        """Whether a text is JSON that the schema allows, as the model would have to write it.

        Whitespace, escapes and the spelling of numbers do not matter; object keys come in the
        schema's order (first `properties`, then other required names, then the rest).

        Args:
            text: The text.
            any_order: Whether keys may come in any order.

        Returns:
            True if the grammar allows it.
        """
        try:
            value = json_text.read(text)
            if any_order:
                value = ordered(self._shape, json_text.plain(value), self._links)
            text = json_text.write(value)
        except ValueError:
            return False
        except RecursionError:
            pass  # nests too deep for Python's parser; judged as it is
        return self._end_of_match(text)[1]

    def explain(self, text: str) -> Explanation:
        """Where a text stops matching, and what was expected there.

        Args:
            text: The text.

        Returns:
            The explanation; positions refer to the text as it is given.
        """
        if self.matches(text):
            return matching(text)
        try:
            json_text.read(text)
        except json.JSONDecodeError as error:
            syntax_error: int | None = error.pos
        except ValueError:
            syntax_error = None
        else:
            syntax_error = None
        lead = len(text) - len(text.lstrip(" \t\r\n"))
        end, _, matcher = self._end_of_match(text[lead:])
        expected = _expected(matcher)
        position = lead + end
        # Of a text that only ends too early, json names where its last string begins.
        if syntax_error is not None and syntax_error < position < len(text):
            position, expected = syntax_error, ("JSON",)
        return describe(text, position, expected)

    def problems(self, text: str) -> list[str]:
        """What the `jsonschema` package finds wrong with a text: for what is `relaxed`.

        Args:
            text: A JSON text.

        Returns:
            One line per fault, with the place; empty if the text is valid.

        Raises:
            GrammarError: If the schema itself cannot be used for validation.
        """
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for

        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return [f"not JSON: {error}"]
        kind = validator_for(self.schema, default=Draft202012Validator)
        checker = kind(self.schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        try:
            return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(value)]
        except Exception as error:
            # jsonschema lets errors of its reference and regex packages through as they are.
            raise GrammarError(
                f"jsonschema cannot use this schema: {error}", keyword="schema", pointer=""
            ) from error

    def guidance(self, vocabulary: Vocabulary | None = None, *, forcing: bool = False) -> str:
        """The grammar in the form that llguidance reads."""
        head = "" if forcing else '%llguidance {"no_forcing": true}\n'
        compiled = {**self._compiled, "x-guidance": {"whitespace_pattern": WHITESPACE}}
        return f"{head}start: %json {json.dumps(compiled)}\n"

    def _check_json(self) -> None:
        from .vocabulary import check_guidance

        self._bytes = check_guidance(self.guidance())

    def _end_of_match(self, text: str) -> tuple[int, bool, LLMatcher]:
        """How many characters match, whether the text is complete, and the matcher after them."""
        from .vocabulary import byte_tokenizer

        if self._bytes is None:
            self._check_json()
        assert self._bytes is not None
        matcher = self._bytes.deep_copy()
        data = text.encode("utf-8", "surrogatepass")
        count = matcher.try_consume_tokens(byte_tokenizer().tokenize_bytes(data))
        end = len(data[:count].decode("utf-8", "ignore"))
        return end, count == len(data) and matcher.is_accepting(), matcher

    def _compiled_program(self) -> Program:
        raise GrammarError("A JSON Schema's grammar has no GBNF rules.")

    def __getstate__(self) -> dict[str, Any]:
        # Links hold functions; whoever needs them again reads the schema again.
        return {"schema": self.schema, "strict": not self.relaxed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["schema"], strict=state["strict"])  # type: ignore[misc]

    def __repr__(self) -> str:
        shown = json.dumps(self.schema)
        return f"<Grammar of the schema {shown if len(shown) < 60 else shown[:57] + '...'}>"


def _expected(matcher: LLMatcher) -> tuple[str, ...]:
    """The bytes that may come next, as characters; a forced text as a whole."""
    import numpy as np

    from .syntax import quote

    if matcher.is_error():
        return ()
    forced = matcher.compute_ff_bytes()
    if len(forced) > 1:
        return (quote(forced.decode("utf-8", "replace")),)
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    codes = [int(code) for code in np.nonzero(bits[:256])[0]]
    shown = tuple(quote(chr(code)) for code in codes if 0x21 <= code < 0x7F)
    others = ("any other character",) if any(code >= 0x80 for code in codes) else ()
    return shown + others + (("the end",) if matcher.is_accepting() else ())


def _guilty(message: str, schema: Any) -> tuple[str, str]:
    """The keyword that a message of llguidance is about, and a schema that holds it."""
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
        schema: A dict, a bool, or a str or bytes of JSON.

    Returns:
        The schema.

    Raises:
        GrammarError: If it is neither.
    """
    if isinstance(schema, bytes | bytearray):
        schema = bytes(schema).decode("utf-8", "replace")
    if isinstance(schema, str):
        if len(schema) > MAX_LENGTH:
            raise GrammarError(f"The schema has more than {MAX_LENGTH} characters.")
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise GrammarError(
                f"line {error.lineno}, column {error.colno}: the schema is no JSON: {error.msg}.",
                line=error.lineno,
                column=error.colno,
                keyword="schema",
                pointer="",
            ) from error
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"The schema cannot be read: {error}.") from error
    if not isinstance(schema, dict | bool):
        raise GrammarError(
            f"A schema is a dict, a bool or JSON text, not {type(schema).__name__}.",
            keyword="schema",
            pointer="",
        )
    _check_json_values(schema)
    return schema


def _check_json_values(schema: Any) -> None:
    """Refuse what JSON has not: infinities, NaN (Python's parser lets them pass), other objects."""
    todo: list[tuple[Any, str, str]] = [(schema, "schema", "")]
    seen: set[int] = set()  # a schema made in Python may contain itself
    while todo:
        node, keyword, pointer = todo.pop()
        reason = ""
        if isinstance(node, dict | list | tuple):
            if id(node) in seen:
                continue
            seen.add(id(node))
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            for key, value in pairs:
                name = key if isinstance(key, str) else keyword
                todo.append((value, name, f"{pointer}/{escape(str(key))}"))
                if isinstance(node, dict) and not isinstance(key, str):
                    reason = f"the key {key!r} is no text"
        elif isinstance(node, float) and not math.isfinite(node):
            reason = f"{node} is no number of JSON"
        elif isinstance(node, int) and abs(node) > MAX_NUMBER:
            reason = "a whole number of more than 300 digits"
        elif node is not None and not isinstance(node, str | int | float | Decimal):
            reason = f"an object of type {type(node).__name__} is not JSON"
        if reason:
            raise GrammarError(
                f"'{keyword}' at {pointer or '/'}: {reason}.", keyword=keyword, pointer=pointer
            )
