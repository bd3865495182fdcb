"""From a reply's events to LangChain's messages, whole or in chunks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.utils.json import parse_partial_json

from helpers.chat.events import (
    CallArguments,
    CallBegin,
    CallEnd,
    CallFault,
    Content,
    Event,
    Thought,
)
from helpers.engine import Completion
from helpers.grammars import Grammar

_SPOILER = ']"]'
"""Ends the arguments of a call that is no good. LangChain reads what there is of a call as if it
were whole; after a bracket that nothing has opened it does not, inside a string or outside."""


class Reply:
    """The message that a reply's events make.

    Args:
        problems: What is wrong with a call of a tool with arguments, as JSON; default: nothing. For
            what the grammar could not hold of the tools' schemas.
    """

    def __init__(self, problems: Callable[[str, str], list[str]] | None = None) -> None:
        self._problems = problems
        self.content: list[str] = []
        self.thoughts: list[str] = []
        self.calls: dict[int, tuple[str, str, list[str]]] = {}  # id, name, arguments
        self.faults: list[InvalidToolCall] = []

    def chunks(self, events: Iterable[Event]) -> Iterator[AIMessageChunk]:
        """Take events in, and give what a stream tells of them."""
        for event in events:
            if isinstance(event, Content):
                self.content.append(event.text)
                yield AIMessageChunk(content=event.text)
            elif isinstance(event, Thought):
                self.thoughts.append(event.text)
                yield AIMessageChunk(
                    content="", additional_kwargs={"reasoning_content": event.text}
                )
            elif isinstance(event, CallBegin):
                name = f"call_{uuid.uuid4().hex[:24]}" if event.id is None else event.id
                self.calls[event.index] = (name, event.name, [])
                yield _call_chunk(event.index, "", name=event.name, id=name)
            elif isinstance(event, CallArguments):
                self.calls[event.index][2].append(event.text)
                yield _call_chunk(event.index, event.text)
            elif isinstance(event, CallFault):
                yield self._fault(event)
            else:
                assert isinstance(event, CallEnd)
                yield from self._checked(event)

    def _checked(self, event: CallEnd) -> Iterator[AIMessageChunk]:
        """A call whose arguments break the tool's schema is no call to be made."""
        if self._problems is not None:
            _, name, written = self.calls[event.index]
            text = "".join(written) or "{}"
            if problems := self._problems(name, text):
                error = f"the arguments of {name!r} break its schema: {'; '.join(problems)}"
                yield self._fault(CallFault(event.index, text, error, name))

    def _fault(self, event: CallFault) -> AIMessageChunk:
        begun = self.calls.pop(event.index, None)
        if begun is None:
            name, index = event.name, event.index
            number = f"call_{uuid.uuid4().hex[:24]}"
            told, args = event.text, event.text
        else:
            number, name, written = begun
            args, told, index = "".join(written) or event.text, "", event.index
        self.faults.append(
            InvalidToolCall(
                type="invalid_tool_call", id=number, name=name, args=args, error=event.error
            )
        )
        spoiled = f"{told}{_SPOILER} ({event.error})"
        if begun is None:
            return _call_chunk(index, spoiled, name=name or "", id=number)
        return _call_chunk(index, spoiled)

    def message(self, **facts: Any) -> AIMessage:
        """The whole message, with further fields."""
        calls = []
        for number, name, written in self.calls.values():
            args = parse_partial_json("".join(written) or "{}")
            if isinstance(args, dict):
                calls.append(ToolCall(type="tool_call", id=number, name=name, args=args))
            else:
                error = "The arguments are not a JSON object."
                self.faults.append(
                    InvalidToolCall(
                        type="invalid_tool_call",
                        id=number,
                        name=name,
                        args="".join(written),
                        error=error,
                    )
                )
        thought = "".join(self.thoughts)
        return AIMessage(
            content="".join(self.content),
            additional_kwargs={"reasoning_content": thought} if thought else {},
            tool_calls=calls,
            invalid_tool_calls=self.faults,
            **facts,
        )

    def finish_reason(self, completion: Completion) -> str:
        """Why the reply ended, in the words of OpenAI's protocol."""
        if completion.finish_reason == "stop" and self.calls:
            return "tool_calls"
        return completion.finish_reason


def argument_problems(schemas: Mapping[str, Any], name: str, arguments: str) -> list[str]:
    """What is wrong with the arguments of a call, beyond what a grammar holds.

    Args:
        schemas: The JSON Schema of each tool's arguments, by its name.
        name: The tool that is called.
        arguments: The arguments, as JSON.
    """
    return Grammar.from_json_schema(schemas[name], strict=False).problems(arguments)


def usage(completion: Completion) -> UsageMetadata:
    """Token counts as LangChain keeps them."""
    return UsageMetadata(
        input_tokens=completion.prompt_tokens,
        output_tokens=completion.generated_tokens,
        total_tokens=completion.prompt_tokens + completion.generated_tokens,
        input_token_details=InputTokenDetails(cache_read=completion.timings.cached_tokens or 0),
    )


def _call_chunk(index: int, args: str, **given: Any) -> AIMessageChunk:
    chunk = ToolCallChunk(
        type="tool_call_chunk",
        name=given.get("name"),
        args=args,
        id=given.get("id"),
        index=index,
    )
    return AIMessageChunk(content="", tool_call_chunks=[chunk])
