"""The grammar that holds a reply: prose streams as it likes, what begins as a call must be one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from helpers.chat.format import ChatFormat
from helpers.chat.lark import write_reply
from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.grammars.explain import Explanation, matching, mismatch
from helpers.grammars.guidance import compile_guidance, end_of_match, expected_next
from helpers.grammars.schema.plain import plain_json
from helpers.grammars.schema.source import SchemaSource

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from helpers.grammars.mask.vocabulary import Vocabulary

_CHOICES = ("auto", "any", "none")


def reply_grammar(
    form: ChatFormat,
    tools: Mapping[str, Any],
    *,
    choice: str = "auto",
    parallel: bool = True,
    thinking: bool | None = None,
    content: Grammar | None = None,
    strict: bool = True,
) -> Grammar | None:
    """Make the grammar that holds a reply.

    Args:
        form: How the model writes replies.
        tools: The JSON Schema of each tool's parameters, by its name.
        choice: "auto": the model decides whether it calls, and is held once it begins to. "any": it
            calls from the first token. "none": it does not. Or the name of the one tool to call.
        parallel: Whether there may be several calls.
        thinking: Whether the reply begins inside the reasoning, which the prompt has opened (True),
            has none (False), or may begin with it (None).
        content: What the content must match, or None.
        strict: Whether a keyword that no grammar can enforce is an error. If not, it is left out
            and listed in the grammar's `relaxed`.

    Returns:
        The grammar; None where there is nothing to hold.

    Raises:
        ValueError: If `choice` names no tool.
        GrammarError: If a tool's parameters are no schema, or cannot be enforced.

    >>> from helpers.chat.format import HERMES
    >>> grammar = reply_grammar(ChatFormat(HERMES), {"now": {"type": "object", "properties": {}}})
    >>> grammar.matches("It is late."), grammar.matches("<tool_call>")
    (True, False)
    """
    if choice not in _CHOICES and choice not in tools:
        known = ", ".join(map(repr, (*_CHOICES, *tools)))
        raise ValueError(f"choice={choice!r} is no tool and no way to choose one; known: {known}.")
    if choice == "any" and not tools:
        raise ValueError("choice='any' needs tools to choose from, and there are none.")
    used = {} if choice == "none" else dict(tools)
    if choice not in _CHOICES:
        used = {choice: tools[choice]}
    if not used and content is None:
        return None
    forced = choice not in ("auto", "none")
    try:
        text = json.dumps(plain_json(used))
    except (TypeError, ValueError, RecursionError):  # no JSON: the schema's reader says where
        given = (forced, parallel, thinking, content)
        return Grammar(ReplySource(form, used, *given, strict=strict))
    # A chat asks for the same grammar in each turn.
    return _grammar(form, text, forced, parallel, thinking, content, strict)


@lru_cache(maxsize=16)
def _grammar(
    form: ChatFormat,
    tools: str,
    forced: bool,
    parallel: bool,
    thinking: bool | None,
    content: Grammar | None,
    strict: bool,
) -> Grammar:
    given = (forced, parallel, thinking, content)
    return Grammar(ReplySource(form, json.loads(tools), *given, strict=strict))


class ReplySource:
    """A reply, as `reply_grammar` describes it.

    Args:
        form: How the model writes replies.
        tools: Schemas of the tools that may be called.
        forced: Whether one has to be called.
        parallel: Whether there may be several calls.
        thinking: As for `reply_grammar`.
        content: What the content must match, or None.
        strict: As for `reply_grammar`.

    Raises:
        GrammarError: If a tool's parameters are no schema, or cannot be enforced.
    """

    kind = "reply"
    gbnf = None
    rules = None

    def __init__(
        self,
        form: ChatFormat,
        tools: Mapping[str, Any],
        forced: bool,
        parallel: bool,
        thinking: bool | None,
        content: Grammar | None,
        *,
        strict: bool,
    ) -> None:
        self.form, self.forced, self.parallel = form, forced, parallel
        self.thinking, self.inner = thinking, content
        self.tools = {name: _arguments(name, schema, strict) for name, schema in tools.items()}
        relaxed = [f"{name}: {what}" for name, one in self.tools.items() for what in one.relaxed]
        text, loose = write_reply(self, None)
        self.relaxed = (*relaxed, *loose, *(content.relaxed if content is not None else ()))
        self.warnings = tuple(
            f"{n}: {what}" for n, one in self.tools.items() for what in one.warnings
        )
        self.strict = strict
        self._bytes: LLMatcher = compile_guidance(_HEAD + text)

    @property
    def schema(self) -> Any:
        """The schema of the content, where it has one."""
        return self.inner.schema if self.inner is not None else None

    def content(self) -> str:
        """What defines the grammar, as JSON."""
        tools = {name: one.schema for name, one in self.tools.items()}
        inner = self.inner.key if self.inner is not None else None
        held = (self.forced, self.parallel, self.thinking, inner)
        return json.dumps([repr(self.form), tools, held])

    def matches(self, text: str, *, any_order: bool) -> bool:
        """Whether a text is a whole reply, as the model would have to write it."""
        return end_of_match(self._bytes, text)[1]

    def explain(self, text: str) -> Explanation:
        """Where a text stops matching."""
        end, matches, state = end_of_match(self._bytes, text)
        return matching(text) if matches else mismatch(text, end, expected_next(state))

    def problems(self, text: str) -> list[str]:
        """What is wrong with the calls in a text, and with their arguments."""
        from helpers.chat.reader import read_reply

        reply = read_reply(self.form, self.schemas, text, thinking=bool(self.thinking))
        found = [fault.error for fault in reply.faults]
        for call in reply.calls:
            found += [
                f"{call.name}: {what}" for what in self.tools[call.name].problems(call.arguments)
            ]
        if self.inner is not None and reply.content.strip():
            found += self.inner.problems(reply.content)
        return found

    @property
    def schemas(self) -> dict[str, Any]:
        """The schemas of the tools by their names."""
        return {name: one.schema for name, one in self.tools.items()}

    def guidance(self, vocabulary: Vocabulary | None, *, forcing: bool) -> str:
        """A Lark grammar for llguidance."""
        return ("" if forcing else _HEAD) + write_reply(self, vocabulary)[0]

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as what it was made from."""
        made = partial(ReplySource, strict=self.strict)
        given = (self.forced, self.parallel, self.thinking, self.inner)
        return made, (self.form, self.schemas, *given)


_HEAD = '%llguidance {"no_forcing": true}\n'


def _arguments(name: str, schema: Any, strict: bool) -> SchemaSource:
    """The arguments of a tool: always an object, whether its schema says so or not."""
    if schema is None or schema is True:
        schema = {}
    if isinstance(schema, Mapping) and "type" not in schema:
        schema = {"type": "object", **schema}
    try:
        return SchemaSource(schema, strict=strict)
    except GrammarError as error:
        raise GrammarError(
            f"The parameters of the tool {name!r}: {error}",
            line=error.line, column=error.column, keyword=error.keyword, pointer=error.pointer,
        ) from error  # fmt: skip
