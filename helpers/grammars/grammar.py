"""`Grammar`: one checked description of what a text may be, whatever it was written in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GrammarError
from . import checks, gbnf, syntax
from .explain import Explanation, explain_rules

if TYPE_CHECKING:
    from .mask import Backend, Matcher
    from .recognizer import Program
    from .vocabulary import Vocabulary


class Grammar:
    """A checked grammar; made by one of the `from_…` methods, never changed afterwards.

    Attributes:
        warnings: What is odd but harmless, such as rules that are never used.
        relaxed: What a schema asks for and the grammar does not enforce; empty unless it was made
            with `strict=False`.

    >>> answer = Grammar.from_string('root ::= "yes" | "no"')
    >>> answer.matches("yes"), answer.matches("maybe")
    (True, False)
    """

    def __init__(self, *, rules: syntax.Rules, source: str) -> None:
        self._rules = rules
        self._source = source
        self._program: Program | None = None
        self.warnings: tuple[str, ...] = ()
        self.relaxed: tuple[str, ...] = ()

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
        parsed = gbnf.parse(gbnf_text)
        warnings = checks.check(parsed)
        made = cls(rules=parsed.rules, source=gbnf_text)
        made.warnings = tuple(warnings)
        made._check_usable()
        return made

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Grammar:
        """Read and check a GBNF file.

        Args:
            path: The file, in UTF-8.

        Returns:
            The grammar.

        Raises:
            GrammarError: If the file cannot be read, or is no correct grammar.
        """
        file = Path(path)
        try:
            with file.open("rb") as stream:
                # One byte more than would be read as a grammar; nobody's disk is slurped in.
                data = stream.read(4 * gbnf.MAX_LENGTH + 1)
            text = data.decode("utf-8-sig")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise GrammarError(f"Cannot read the grammar {file}: {reason}.") from error
        except UnicodeDecodeError as error:
            raise GrammarError(
                f"{file} is not a text in UTF-8 (byte {error.start}); save it as UTF-8."
            ) from error
        except ValueError as error:  # a NUL in the path
            raise GrammarError(f"Cannot read the grammar {file!r}: {error}.") from error
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
            schema: The schema, parsed or as JSON text.
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
        from .json_schema import JsonGrammar, load_schema

        return JsonGrammar(load_schema(schema), strict=strict)

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
        from .json_schema import JsonGrammar
        from .pydantic_schema import pydantic_schema

        return JsonGrammar(pydantic_schema(model), strict=strict)

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
        from .json_schema import JsonGrammar
        from .typescript import typescript_schema

        return JsonGrammar(typescript_schema(source, root), strict=strict)

    @property
    def gbnf(self) -> str | None:
        """The grammar in GBNF, or None where GBNF cannot say it."""
        return self._source

    @property
    def rules(self) -> syntax.Rules | None:
        """The grammar as GBNF rules, or None where it has none."""
        return self._rules

    def matches(self, text: str, *, any_order: bool = False) -> bool:
        """Whether a text is a complete text of this grammar.

        A grammar made from a schema judges a text as the model would have to write it: JSON with
        any whitespace and any escapes, object keys in the schema's order.

        Args:
            text: The text.
            any_order: For grammars made from a schema: whether keys may come in any order.

        Returns:
            True if the grammar allows exactly this text.

        Raises:
            GrammarError: If the grammar names tokens, or is too ambiguous for a text this long.
        """
        return self.explain(text).matches

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
        return explain_rules(self._compiled_program(), text)

    def problems(self, text: str) -> list[str]:
        """What is wrong with a text beyond what the grammar enforces.

        Args:
            text: The text.

        Returns:
            One line per fault. Grammars made from a schema ask the `jsonschema` package, which
            also checks what is `relaxed`; others have nothing to add to `explain`.
        """
        found = self.explain(text)
        return [] if found.matches else [found.message]

    def matcher(self, vocabulary: Vocabulary, *, backend: Backend = "auto") -> Matcher:
        """A fresh matcher for one sequence of a model.

        Args:
            vocabulary: The model's tokens.
            backend: `llguidance`, or `native` for llama.cpp's own sampler (slower, the same
                language, only for grammars that are GBNF). `auto` is llguidance, which can
                express all of GBNF.

        Returns:
            The matcher, at the beginning of a text.

        Raises:
            GrammarError: If the backend refuses the grammar.
        """
        from .mask import GuidanceMatcher

        if backend != "native":
            return GuidanceMatcher(vocabulary, self)
        if self.rules is None:
            raise GrammarError("This grammar cannot be written as GBNF for llama.cpp's sampler.")
        from .native_mask import NativeMatcher

        return NativeMatcher(vocabulary, self.rules)

    def guidance(self, vocabulary: Vocabulary | None = None, *, forcing: bool = False) -> str:
        """The grammar in the form that llguidance reads.

        Args:
            vocabulary: Needed by grammars that name tokens.
            forcing: See `Vocabulary.prototype`.

        Returns:
            A Lark grammar.
        """
        from .lark import to_lark

        head = "" if forcing else '%llguidance {"no_forcing": true}\n'
        return head + to_lark(self._rules, vocabulary.token_number if vocabulary else None)

    def _compiled_program(self) -> Program:
        if self._program is None:
            from .recognizer import Program

            self._program = Program(self._rules)
        return self._program

    def _check_usable(self) -> None:
        """Let llguidance read the grammar once, so that nothing is left to fail at generation."""
        if any(isinstance(node, syntax.Token) for node in syntax.walk(self._rules)):
            return  # token numbers mean something only to a model
        from .vocabulary import check_guidance

        check_guidance(self.guidance())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_program": None}

    def __repr__(self) -> str:
        shown = self._source if len(self._source) < 60 else self._source[:57] + "..."
        return f"<Grammar {shown!r}>"
