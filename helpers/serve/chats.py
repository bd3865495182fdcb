"""/v1/chat/completions: conversations, with tools, formats and reasoning, in OpenAI's words.

The way of `ChatLlamaCpp`, without LangChain's callbacks and messages for each token: its template
and grammar make the request, its reader finds content, reasoning and calls in the reply.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages

from helpers.chat.events import Content, Event, Thought
from helpers.checks import check_switch, check_text
from helpers.engine import Chunk, Completion
from helpers.grammars import Grammar
from helpers.llm import ChatLlamaCpp
from helpers.llm.chat import Turn, format_grammar
from helpers.remote.codec import chunk_to_json, grammar_from_json
from helpers.serve.answers import Asked, Item
from helpers.serve.fields import COMMON, SAMPLING, choices_wanted, nth_seed
from helpers.serve.problems import Problem, refuse_unknown

FIELDS = (
    *COMMON,
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "logprobs",
    "top_logprobs",
    "max_completion_tokens",
    "reasoning_effort",
    "reasoning",
    "reasoning_budget",
    "chat_template_kwargs",
    "strict",
)
_ROLES = ("system", "developer", "user", "assistant", "tool")
_AS_IS = (*SAMPLING, "tools", "tool_choice", "parallel_tool_calls", "response_format",
          "reasoning", "reasoning_budget", "strict")  # fmt: skip


async def read_chat(body: Mapping[str, Any], chat: ChatLlamaCpp, most: int) -> list[Asked]:
    """What a body asks for.

    Args:
        body: The body.
        chat: The model.
        most: Most answers that it may ask for.

    Raises:
        Problem: A field is unknown, or too many answers are wanted.
        ValueError: A value has no meaning.
        TypeError: A value is of the wrong kind.
        GrammarError: A grammar or a schema cannot be used.
    """
    refuse_unknown(body, FIELDS)
    n = choices_wanted(body, 1, most)
    messages, parameters = _messages(body), _parameters(body)
    asked = []
    for copy in range(n):  # each with a reader of its own
        turn = await asyncio.to_thread(chat.turn, messages, **parameters)
        request = replace(turn.request, seed=nth_seed(turn.request.seed, copy))
        asked.append(Asked(request, ReplyWriter(turn)))
    return asked


def _parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body's fields under the names of `ChatLlamaCpp`'s."""
    given = {name: body[name] for name in _AS_IS if name in body}
    if "max_completion_tokens" in body:
        given["max_tokens"] = body["max_completion_tokens"]
    if "chat_template_kwargs" in body:
        given["template_kwargs"] = body["chat_template_kwargs"]
    if (effort := body.get("reasoning_effort")) == "none":
        given.setdefault("reasoning", False)
    elif effort is not None:  # some templates have it as a variable
        variables = {"reasoning_effort": check_text("reasoning_effort", effort)}
        given["template_kwargs"] = variables | dict(given.get("template_kwargs") or {})
    if "grammar" in body:
        given["grammar"] = grammar_from_json(body["grammar"])
    elif "response_format" in given:
        strict = body.get("strict") is True
        given["grammar"] = _format(json.dumps(given.pop("response_format")), strict)
    if check_switch("logprobs", body.get("logprobs", False)):
        given["logprobs"] = body.get("top_logprobs", 0)
    elif "top_logprobs" in body:
        raise Problem(400, "invalid_value", "top_logprobs needs logprobs.", param="top_logprobs")
    if isinstance(bias := given.get("logit_bias"), Mapping):
        given["logit_bias"] = _biases(bias)
    return given


@lru_cache(maxsize=64)
def _format(written: str, strict: bool) -> Grammar | None:
    """The grammar of a `response_format`: a class asks for the same one again and again."""
    return format_grammar(json.loads(written), strict)


def _biases(bias: Mapping[str, Any]) -> dict[int, Any]:
    try:
        return {int(token): value for token, value in bias.items()}
    except ValueError:
        raise Problem(
            400,
            "invalid_value",
            'logit_bias must be an object from token ids to numbers, as {"42": -100}.',
            param="logit_bias",
        ) from None


def _messages(body: Mapping[str, Any]) -> list[BaseMessage]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Problem(
            400, "invalid_value", "messages must be a list of at least one.", param="messages"
        )
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise Problem(
                400,
                "invalid_value",
                f"messages[{number}] must be an object with a role, one of {', '.join(_ROLES)}.",
                param=f"messages[{number}]",
            )
    # A message that only calls tools has no content: null, or no such field.
    whole = [{**one, "content": one.get("content") or ""} for one in messages]
    try:
        return convert_to_messages(whole)
    except Exception as error:  # LangChain takes what is missing for granted
        told = f"{error!r}".splitlines()[0]
        raise Problem(
            400, "invalid_value", f"The messages cannot be read: {told}.", param="messages"
        ) from None


class ReplyWriter:
    """Writes one reply down.

    Args:
        turn: The call.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._first: dict[str, Any] = {"role": "assistant"}

    def pieces(self, item: Item) -> Iterator[dict[str, Any]]:
        """The deltas that a piece gives, and at the end why it ended."""
        if isinstance(item, Chunk):
            logprobs = _logprobs(item.logprobs)
            for delta in self._deltas(self._turn.reader.feed(item.text)):
                yield self._choice(delta, logprobs)
                logprobs = None
            if logprobs is not None:  # of tokens whose text is held back
                yield self._choice({}, logprobs)
            return
        for delta in self._deltas(self._turn.reader.finish(cut=item.finish_reason != "stop")):
            yield self._choice(delta, None)
        yield self._choice({}, None) | {"finish_reason": self._turn.reply.finish_reason(item)}

    def _choice(self, delta: dict[str, Any], logprobs: Any) -> dict[str, Any]:
        if self._first:
            delta, self._first = {**self._first, **delta}, {}
        return {"delta": delta, "finish_reason": None, "logprobs": logprobs}

    def _deltas(self, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
        for event in events:
            if isinstance(event, Content):
                yield {"content": event.text}
            elif isinstance(event, Thought):
                yield {"reasoning_content": event.text}
            else:  # rare: the messages that keep count of the calls cost nothing
                for message in self._turn.reply.chunks([event]):
                    yield {"tool_calls": [_call_delta(c) for c in message.tool_call_chunks]}

    def whole(self, completion: Completion) -> dict[str, Any]:
        """The whole message; what a stream has told, put together."""
        content, thoughts = [], []
        calls: dict[int, dict[str, Any]] = {}
        events = self._turn.reader.feed(completion.text)
        events += self._turn.reader.finish(cut=completion.finish_reason != "stop")
        for delta in self._deltas(events):
            content.append(delta.get("content", ""))
            thoughts.append(delta.get("reasoning_content", ""))
            for call in delta.get("tool_calls", ()):
                known = calls.setdefault(call["index"], {"type": "function"})
                function = known.setdefault("function", {"name": "", "arguments": ""})
                known["id"] = call.get("id") or known.get("id")
                for name, text in call["function"].items():
                    function[name] += text
        text = "".join(content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "refusal": None,
        }
        if thought := "".join(thoughts):
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = list(calls.values())
        return {
            "message": message,
            "finish_reason": self._turn.reply.finish_reason(completion),
            "logprobs": _logprobs(completion.logprobs),
        }


def _call_delta(chunk: Mapping[str, Any]) -> dict[str, Any]:
    function = {"arguments": chunk["args"] or ""}
    if chunk.get("id") is None:
        return {"index": chunk["index"], "function": function}
    begun = {"index": chunk["index"], "id": chunk["id"], "type": "function"}
    return {**begun, "function": {"name": chunk["name"] or "", **function}}


def _logprobs(given: dict[str, list[Any]] | None) -> dict[str, Any] | None:
    """Log probabilities of the completions' form in the chats'."""
    if given is None:
        return None
    plain = chunk_to_json(Chunk("", given))["choices"][0]["logprobs"]  # finite: JSON has no others
    content = []
    for token, logprob, top in zip(
        plain["tokens"], plain["token_logprobs"], plain["top_logprobs"], strict=True
    ):
        others = [_token(one, value) for one, value in top.items()]
        content.append({**_token(token, logprob), "top_logprobs": others})
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
