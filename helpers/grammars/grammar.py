"""`Grammar`: one checked description of what a text may be, whatever it was written in."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from helpers.errors import GrammarError

if TYPE_CHECKING:
    from helpers.grammars.explain import Explanation
    from helpers.grammars.gbnf.syntax import Rules
    from helpers.grammars.mask import Matcher, Vocabulary


class Source(Protocol):
    """What a grammar was written in, read and checked; its `Grammar` asks it, and documents it."""

    kind: str

    @property
    def gbnf(self) -> str | None: ...  # noqa: D102
    @property
    def rules(self) -> Rules | None: ...  # noqa: D102
    @property
    def schema(self) -> Any: ...  # noqa: D102
    @property
    def warnings(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def relaxed(self) -> tuple[str, ...]: ...  # noqa: D102

    def content(self) -> str:
        """What defines the grammar."""

    def matches(self, text: str, *, any_order: bool) -> bool: ...  # noqa: D102
    def explain(self, text: str) -> Explanation: ...  # noqa: D102
    def problems(self, text: str) -> list[str]: ...  # noqa: D102
    def guidance(self, vocabulary: Vocabulary | None, *, forcing: bool) -> str: ...  # noqa: D102


class Grammar:
    """A checked grammar; made by one of the `from_…` methods, never changed afterwards.

    It holds what it was written in, read and checked, and asks that.

    >>> answer = Grammar.from_string('root ::= "yes" | "no"')
    >>> answer.matches("yes"), answer.matches("maybe")
    (True, False)
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    @classmethod
    def from_string(cls, gbnf_text: str) -> Grammar:
        """Read and check a grammar in GBNF, llama.cpp's notation.

        Args:
            gbnf_text: The grammar; its rule `root` describes the whole text.

        Returns:
            The grammar.

        Raises:
            GrammarError: With line, column and what was expected, if anything is wrong with it.
        """
        from helpers.grammars.gbnf.source import GbnfSource

        return cls(GbnfSource(gbnf_text))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Grammar:
        """Read and check a GBNF file.

        Args:
            path: The file, in UTF-8.

        Returns:
            The grammar.

        Raises:
            GrammarError: If the file cannot be read, or is not a correct grammar.
        """
        from helpers.grammars.gbnf.parser import MAX_LENGTH

        file = Path(path)
        try:
            with file.open("rb") as stream:
                # One byte more than any grammar may have: a huge file is not read as a whole.
                data = stream.read(4 * MAX_LENGTH + 1)
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise GrammarError(
                f"{file} is not a text in UTF-8 (byte {error.start}); save it as UTF-8."
            ) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise GrammarError(f"Cannot read the grammar {str(file)!r}: {reason}.") from error
        try:
            return cls.from_string(text)
        except GrammarError as error:
            raise GrammarError(f"{file}: {error}", line=error.line, column=error.column) from error

    @classmethod
    def from_json_schema(
        cls, schema: dict[str, Any] | bool | str | bytes, *, strict: bool = True
    ) -> Grammar:
        """Make a grammar of the JSON that a JSON Schema allows (2020-12 and older drafts).

        The specification's own formats are enforced; other names in `format` are annotations.

        Args:
            schema: The schema, parsed or as JSON text. Enums, tuples and NumPy's numbers in it
                become plain values; later changes to it do not reach the grammar.
            strict: Whether a keyword that no grammar can enforce is an error. If not, it is left
                out and listed in `relaxed`: validate the result with `jsonschema`.

        Returns:
            The grammar.

        Raises:
            GrammarError: With `keyword` and `pointer` of what cannot be enforced, or is wrong.

        >>> person = Grammar.from_json_schema(
        ...     {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        ... )
        >>> person.matches('{"age": 7}'), person.matches('{"age": "7"}')
        (True, False)
        """
        from helpers.grammars.schema.source import SchemaSource

        return cls(SchemaSource(schema, strict=strict))

    @classmethod
    def from_pydantic(cls, model: Any, *, strict: bool = True) -> Grammar:
        """Make a grammar of the JSON that parses into a pydantic model.

        Only declared fields may appear, unless the model says `extra="allow"`. Decimals are
        numbers. Validators written in Python are unknown to the grammar.

        Args:
            model: A pydantic model, a dataclass, or any type that pydantic understands.
            strict: As in `from_json_schema`.

        Returns:
            The grammar; its `schema` is the JSON Schema it was made from.

        Raises:
            GrammarError: If pydantic has no schema for it, or the schema cannot be a grammar.

        >>> from typing import Literal
        >>> Grammar.from_pydantic(list[Literal["red", "blue"]]).matches('["red"]')
        True
        """
        from helpers.grammars.schema.from_pydantic import pydantic_schema
        from helpers.grammars.schema.source import SchemaSource

        return cls(SchemaSource(pydantic_schema(model), strict=strict))

    @classmethod
    def from_typescript(
        cls, source: str, root: str | None = None, *, strict: bool = True
    ) -> Grammar:
        """Make a grammar of the JSON that has a TypeScript type.

        Args:
            source: Interfaces, type aliases and enums; generics, `extends`, unions, tuples,
                records, optional and readonly members, recursion and comments are understood.
            root: Name of the type that the text has; default: the one that no other uses.
            strict: As in `from_json_schema`.

        Returns:
            The grammar; its `schema` is the JSON Schema it was made from.

        Raises:
            GrammarError: With line and column, for anything that is not supported.

        >>> point = Grammar.from_typescript("interface Point { x: number; y?: number }")
        >>> point.matches('{"x": 1.5}'), point.matches('{"y": 2}')
        (True, False)
        """
        from helpers.grammars.schema.source import SchemaSource
        from helpers.grammars.typescript.types import typescript_schema

        return cls(SchemaSource(typescript_schema(source, root), strict=strict))

    @property
    def gbnf(self) -> str | None:
        """The grammar in GBNF, or None where GBNF cannot express it."""
        return self._source.gbnf

    @property
    def rules(self) -> Rules | None:
        """The grammar as GBNF rules, or None where it has none."""
        return self._source.rules

    @property
    def schema(self) -> Any:
        """The JSON Schema that the grammar was made from, or None where it was another notation."""
        return self._source.schema

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd but harmless, such as rules that are never used."""
        return self._source.warnings

    @property
    def relaxed(self) -> tuple[str, ...]:
        """What a schema asks for and the grammar does not enforce.

        Empty unless the grammar was made with `strict=False`.
        """
        return self._source.relaxed

    @cached_property
    def key(self) -> str:
        """A name for the grammar's content: the SHA-256 of its notation and text, in hexadecimal.

        Grammars of equal content have equal keys, in any process and after pickling, so a process
        that has received a grammar once can be sent its key from then on.

        >>> text = 'root ::= "yes" | "no"'
        >>> Grammar.from_string(text).key == Grammar.from_string(text).key
        True
        """
        kind, relaxed = self._source.kind, "relaxed" if self.relaxed else ""
        content = f"{kind}\n{relaxed}\n{self._source.content()}"
        return hashlib.sha256(content.encode()).hexdigest()

    def matches(self, text: str, *, any_order: bool = False) -> bool:
        """Whether a text is a complete text of this grammar.

        A grammar made from a schema judges a text as the model would have to write it: JSON with
        any whitespace, any escapes and any spelling of numbers, object keys in the schema's order
        (first `properties`, then other required names, then the rest).

        Args:
            text: The text.
            any_order: For grammars made from a schema: whether keys may come in any order.

        Returns:
            True if the grammar allows exactly this text.

        Raises:
            GrammarError: If the grammar names tokens, or is too ambiguous for a text this long.
        """
        return self._source.matches(text, any_order=any_order)

    def explain(self, text: str) -> Explanation:
        """Where a text stops matching, and what was expected there.

        Args:
            text: The text.

        Returns:
            The explanation; `print` it, or look at its fields.

        Raises:
            GrammarError: If the grammar names tokens, or is too ambiguous for a text this long.

        >>> print(Grammar.from_string('root ::= "yes" | "no"').explain("yep"))
        line 1, column 3: expected "s" but found "p".
            yep
              ^
        """
        return self._source.explain(text)

    def problems(self, text: str) -> list[str]:
        """What is wrong with a text beyond what the grammar enforces.

        Args:
            text: The text.

        Returns:
            One line per problem. Grammars made from a schema ask the `jsonschema` package, which
            also checks what is `relaxed`; others have nothing to add to `explain`.

        Raises:
            GrammarError: If the schema itself cannot be used for validation.
        """
        return self._source.problems(text)

    def matcher(self, vocabulary: Vocabulary) -> Matcher:
        """A fresh matcher for one sequence of a model.

        Args:
            vocabulary: The model's tokens.

        Returns:
            The matcher, at the beginning of a text.

        Raises:
            GrammarError: If llguidance refuses the grammar for these tokens.
        """
        from helpers.grammars.mask import Matcher

        return Matcher(vocabulary, self)

    def guidance(self, vocabulary: Vocabulary | None = None, *, forcing: bool = False) -> str:
        """The grammar in the form that llguidance reads.

        Args:
            vocabulary: Needed by grammars that name tokens.
            forcing: See `Vocabulary.prototype`.

        Returns:
            A Lark grammar.
        """
        return self._source.guidance(vocabulary, forcing=forcing)

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": self._source}

    def __repr__(self) -> str:
        shown = self._source.content()
        shown = shown if len(shown) < 60 else shown[:57] + "..."
        shown = repr(shown) if self.gbnf is not None else f"of the {self._source.kind} {shown}"
        # Who tells calls apart by the `repr` of their parameters must not take one for another.
        return f"<Grammar {shown} {self.key[:16]}>"
