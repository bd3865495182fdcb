"""`ChatLlamaCpp`: llama.cpp as a LangChain chat model, with tools, objects and reasoning."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from pydantic import BaseModel, Field, PrivateAttr

from helpers.chat.grammar import reply_grammar
from helpers.chat.reader import ReplyReader
from helpers.chat.template import ChatTemplate
from helpers.checks import check_range
from helpers.engine import Completion, ReasoningBudget, Request
from helpers.grammars import Grammar
from helpers.llm.cache import marked
from helpers.llm.fields import PER_CALL, ModelFields
from helpers.llm.replies import Reply, argument_problems, usage
from helpers.llm.results import grammar_info, logprobs_info, one_line
from helpers.llm.structured import METHODS, SchemaParser, as_json_schema, schema_grammar
from helpers.llm.tools import parameters, tool_choice, tool_list
from helpers.models import inspect_model
from helpers.models.messages import plain_messages
from helpers.parameters import reject_unknown
from helpers.prompt import Prompt
from helpers.warn import warn_caller

_OF_A_TURN = (
    "tools",
    "tool_choice",
    "strict",
    "parallel_tool_calls",
    "response_format",
    "template_kwargs",
    "reasoning",
    "reasoning_budget",
)
"""What a call can be given beside the fields of `LlamaCpp`."""


@dataclass
class Turn:
    """One call: what the engine is asked, and how its reply is read."""

    request: Request
    reader: ReplyReader
    reply: Reply


class ChatLlamaCpp(ModelFields, BaseChatModel):
    """A GGUF model run by llama.cpp, that one talks with in messages.

    The fields are those of `LlamaCpp`, and a `LlamaCpp` with the same ones shares the loaded model.
    What users, tools and documents supply is never read as a control token, however it is written.

    >>> from helpers import ChatLlamaCpp, default_model
    >>> chat = ChatLlamaCpp(model_path=default_model(), temperature=0, max_tokens=16)
    >>> chat.invoke("Which country is Paris in?").content
    'Paris is the capital of France and is located in Western Europe.'
    """

    chat_template: str | Path | None = None
    """Jinja source to use in place of the file's own template, or a file with it."""

    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the template."""

    reasoning: bool | None = None
    """Let the model reason before it answers (True), keep it from it (False), or leave it to the
    model and its template (None). Reasoning comes apart from the content, as a block of its own."""

    reasoning_budget: int | None = None
    """Most tokens of reasoning, after which it is closed and the answer begins; None: no limit."""

    streaming: bool = False
    """Tell the callbacks about each new piece of text, in `invoke` too."""

    _template: ChatTemplate = PrivateAttr()

    def __init__(self, *args: Any, **values: Any) -> None:
        """Check the values and load the model."""
        super().__init__(*args, **values)
        if "profile" not in values:  # a copy with other fields makes its own
            self.model_fields_set.discard("profile")

    def model_post_init(self, context: Any, /) -> None:
        """Read the template, then load the model."""
        if self.model_path and self.server is None:  # what is wrong shows before a slow load
            self._template = ChatTemplate(inspect_model(self.model_path), self.chat_template)
        self._check_turn({})
        super().model_post_init(context)
        if self.server is not None:
            self._template = ChatTemplate(self._inspected(), self.chat_template)

    def _change(self, changes: Mapping[str, Any]) -> None:
        if "chat_template" in changes:
            template = ChatTemplate(self._template.model, changes["chat_template"])
            super()._change(changes)
            self._template = template
        else:
            super()._change(changes)

    @property
    def _llm_type(self) -> str:
        return "llamacpp-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            **super()._identifying_params,
            "chat_template": self._template.source(tools=True),
            "template_kwargs": self.template_kwargs,
            "reasoning": self.reasoning,
            "reasoning_budget": self.reasoning_budget,
        }

    def _resolve_model_profile(self) -> ModelProfile:
        form = self._template.form
        info = self._template.model
        return ModelProfile(
            name=info.name or info.path.stem,
            open_weights=True,
            max_input_tokens=self._engine.options.n_ctx or 0,
            max_output_tokens=self._engine.options.n_ctx or 0,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            pdf_inputs=False,
            video_inputs=False,
            text_outputs=True,
            image_outputs=False,
            audio_outputs=False,
            video_outputs=False,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
            reasoning_output=form.reasoning is not None,
            temperature=True,
        )

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params.setdefault("ls_model_name", self._model_name)
        return {**params, "ls_provider": "llamacpp"}

    # -- what is asked ----------------------------------------------------------------------------

    def format_prompt(
        self, messages: LanguageModelInput, tools: Sequence[Any] | None = None
    ) -> Prompt:
        """What the model reads of a conversation: the prompt that a call would send.

        Args:
            messages: The conversation, in any form that `invoke` takes.
            tools: Tools that the model is told about.

        Returns:
            The text, which knows what the template wrote and what was supplied.

        >>> chat.get_token_ids(chat.format_prompt("Hi!"))  # doctest: +SKIP
        """
        return self._template.render(
            plain_messages(self._convert_input(messages).to_messages()),
            tools=tool_list(tools or ()),
            variables=self.template_kwargs,
            reasoning=self.reasoning,
        ).prompt

    @property
    def template_takes(self) -> dict[str, bool]:
        """What the chat template has a place of its own for.

        Nothing is lost where it has none: a message of the system begins the user's next one,
        tools are described in the first message, and calls and results are written as text.

        >>> chat.template_takes  # doctest: +SKIP
        {'system': True, 'tools': False, 'calls': False, 'results': False, 'reasoning': False}
        """
        form = self._template.form
        return {
            "system": form.system,
            "tools": form.takes_tools,
            "calls": form.takes_calls,
            "results": form.tool_role and form.takes_calls,
            "reasoning": form.reasoning is not None,
        }

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """How many tokens a conversation has for this model, its template's and tools' included.

        Args:
            messages: The conversation.
            tools: Tools that the model is told about.
        """
        return len(self._engine.tokenize(self.format_prompt(messages, tools)))

    def turn(self, messages: LanguageModelInput, stop: Any = None, **kwargs: Any) -> Turn:
        """A call that is not made: for those who ask the engine themselves.

        Args:
            messages: The conversation, in any form that `invoke` takes.
            stop: Strings that end the reply, added to the model's own.
            **kwargs: Parameters of the call.

        Returns:
            The engine's request, the reader of the reply's text, and the count of its calls.
        """
        return self._turn(self._convert_input(messages).to_messages(), stop, kwargs)

    async def _aturn(
        self, messages: list[BaseMessage], stop: Any, kwargs: Mapping[str, Any]
    ) -> Turn:
        """`_turn` off the event loop: a template may take its time."""
        self._timings.set(None)
        return await asyncio.to_thread(self._turn, messages, stop, kwargs)

    def _turn(self, messages: list[BaseMessage], stop: Any, kwargs: Mapping[str, Any]) -> Turn:
        self._timings.set(None)
        if not messages:
            raise ValueError("There are no messages to answer: give at least one of the user.")
        reject_unknown(kwargs, (*PER_CALL, *_OF_A_TURN), f"A call of {type(self).__name__}")
        given = self._check_turn(kwargs)
        caller = self._for_call(stop, {k: v for k, v in kwargs.items() if k in PER_CALL})
        if caller.echo or caller.suffix:
            raise ValueError("echo and suffix have no meaning in a chat; LlamaCpp has them.")
        tools = tool_list(given["tools"] or (), strict=given["strict"])
        choice = tool_choice(given["tool_choice"], tools)
        if choice == "none":
            tools = []
        rendered = self._template.render(
            plain_messages(messages),
            tools=tools,
            variables={**self.template_kwargs, **(given["template_kwargs"] or {})},
            reasoning=given["reasoning"],
        )
        form, schemas = self._template.form, parameters(tools)
        request = caller._request(rendered.prompt)
        content = request.grammar
        if content is None and given["response_format"] is not None:
            content = format_grammar(given["response_format"], given["strict"])
        thinking = rendered.thinking or (False if given["reasoning"] is False else None)
        parallel = given["parallel_tool_calls"]
        grammar = reply_grammar(
            form,
            schemas,
            choice=choice if schemas else "none",
            parallel=choice == "auto" if parallel is None else bool(parallel),
            thinking=thinking,
            content=content,
            strict=given["strict"] is True,
        )
        budget = given["reasoning_budget"]
        reasoning = None
        if budget is not None and form.reasoning is not None and given["reasoning"] is not False:
            reasoning = ReasoningBudget(
                begin=form.reasoning.begin,
                end=f"\n{form.reasoning.end}\n\n",
                tokens=budget,
                open=rendered.thinking,
            )
        request = replace(
            request,
            grammar=grammar,
            shown_tokens=form.texts(calls=bool(schemas)),
            reasoning=reasoning,
        )
        reader = ReplyReader(form, schemas, thinking=rendered.thinking, reading_calls=bool(schemas))
        relaxed = schemas and grammar is not None and grammar.relaxed
        return Turn(
            request, reader, Reply(partial(argument_problems, schemas) if relaxed else None)
        )

    def _check_turn(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call's own parameters; what is not given is the field's, or None."""
        given = {name: kwargs.get(name, getattr(self, name, None)) for name in _OF_A_TURN}
        if given["reasoning"] is not None and not isinstance(given["reasoning"], bool):
            raise ValueError(f"reasoning={given['reasoning']!r} must be True, False or None.")
        if given["reasoning_budget"] is not None:
            given["reasoning_budget"] = check_range(
                "reasoning_budget", given["reasoning_budget"], 0, 2**31 - 1
            )
        if given["template_kwargs"] is not None and not isinstance(
            given["template_kwargs"], Mapping
        ):
            raise TypeError(f"template_kwargs={given['template_kwargs']!r} must be a dict.")
        return given

    # -- calls ------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = self._turn(messages, stop, kwargs)
        return self._result(turn, self._engine.generate(turn.request))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = await self._aturn(messages, stop, kwargs)
        (completion,) = await self._engine.agenerate_many([turn.request])
        return self._result(turn, completion)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = self._turn(messages, stop, kwargs)
        with closing(self._engine.stream(turn.request)) as items:
            for item in items:
                for chunk in self._chunks(turn, item):
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        turn = await self._aturn(messages, stop, kwargs)
        async with aclosing(self._engine.astream(turn.request)) as items:
            async for item in items:
                for chunk in self._chunks(turn, item):
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _generate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return super(ChatLlamaCpp, self._caching())._generate_with_cache(*args, **kwargs)

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return await super(ChatLlamaCpp, self._caching())._agenerate_with_cache(*args, **kwargs)

    def _caching(self) -> Self:
        """This model for one call, with a cache that marks its answers."""
        self._timings.set(None)
        caller = BaseModel.__copy__(self)
        caller.__dict__["cache"] = marked(self.cache)
        return caller

    def _chunks(self, turn: Turn, item: Any) -> Iterator[ChatGenerationChunk]:
        """What a stream tells of a piece of the reply; of its end, with all there is to know."""
        if not isinstance(item, Completion):
            logprobs = logprobs_info(item.logprobs)
            for message in turn.reply.chunks(turn.reader.feed(item.text)):
                yield ChatGenerationChunk(message=message, generation_info=logprobs)
                logprobs = None
            if logprobs is not None:  # of tokens whose text is held back
                yield ChatGenerationChunk(
                    message=AIMessageChunk(content=""), generation_info=logprobs
                )
            return
        cut = item.finish_reason != "stop"
        for message in turn.reply.chunks(turn.reader.finish(cut=cut)):
            yield ChatGenerationChunk(message=message)
        info = self._info(turn, item)
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=usage(item),
                response_metadata=info,
                chunk_position="last",
            ),
            generation_info={"finish_reason": info["finish_reason"]},
        )

    def _result(self, turn: Turn, completion: Completion) -> ChatResult:
        events = turn.reader.feed(completion.text)
        events += turn.reader.finish(cut=completion.finish_reason != "stop")
        for _ in turn.reply.chunks(events):
            pass
        info = self._info(turn, completion) | (logprobs_info(completion.logprobs) or {})
        message = turn.reply.message(usage_metadata=usage(completion), response_metadata=info)
        generation = ChatGeneration(
            message=message, generation_info={"finish_reason": info["finish_reason"]}
        )
        return ChatResult(
            generations=[generation],
            llm_output={"model_name": info["model_name"]},
        )

    def _info(self, turn: Turn, completion: Completion) -> dict[str, Any]:
        """Facts about a whole answer, which is noted as this thread's or task's last."""
        self._timings.set(completion.timings)
        if self.verbose:
            print(one_line(completion), file=sys.stderr)
        for fault in turn.reply.faults:
            warn_caller(f"A call of a tool could not be used: {fault['error']}")
        told = turn.reply.faults and completion.finish_reason == "length"  # once is enough
        return {
            "model_name": self._model_name,
            "model_provider": "llamacpp",
            "finish_reason": turn.reply.finish_reason(completion),
            "timings": completion.timings,
            **({} if told else grammar_info(turn.request, completion)),
        }

    # -- tools and objects ------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        Args:
            tools: Functions with type hints, LangChain tools, pydantic models, TypedDicts, or
                dicts in OpenAI's form.
            tool_choice: "auto" (the default: the model decides), "any" (it must call one), "none",
                or the name of the one that it must call. A call that is begun is held to the names
                and the schemas of the tools.
            strict: True: what a grammar cannot hold of a schema is an error; else it is left out.
            parallel_tool_calls: Whether a reply may have several calls; None: where the model
                decides, but not where it must call, as small models do not know when to stop.
            **kwargs: Further parameters of each call.

        Raises:
            ValueError: There is no such tool, or a name cannot be used.
            TypeError: Something is no tool.

        >>> def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> chat.bind_tools([add], tool_choice="add")  # doctest: +SKIP
        """
        made = tool_list(tools, strict=strict)
        given = {
            "tools": made,
            "tool_choice": _choice(tool_choice, made),
            "strict": strict,
            "parallel_tool_calls": parallel_tool_calls,
        }
        return self.bind(**{k: v for k, v in given.items() if v is not None}, **kwargs)

    def with_structured_output(
        self,
        schema: Any = None,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model with answers that are objects of a schema.

        The grammar holds the answer to the schema from the first token on; what no grammar can
        hold (a validator in Python, say) is checked when the answer is there.

        Args:
            schema: A pydantic model (its instances are what comes), a dataclass (likewise), a
                TypedDict or a JSON Schema (dicts come). None: any object, for "json_mode".
            method: "json_schema" (the answer is the object), "function_calling" (a forced call of
                a tool with that schema), or "json_mode" (without a schema any JSON object, else the
                same as "json_schema": why let a model miss what it can be held to?).
            include_raw: Give a dict of "raw" (the message), "parsed" and "parsing_error" instead
                of raising what is wrong with an answer.
            strict: True: what the grammar cannot hold is an error now.
            **kwargs: Further parameters of each call.

        Raises:
            ValueError: There is no such method, or it cannot give what the schema describes.
            TypeError: `schema` is none.
            GrammarError: The schema is wrong, or cannot be held and `strict` is True.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}.")
        if schema is None and method != "json_mode":
            raise ValueError(f"method={method!r} needs a schema.")
        told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        json_schema, build = as_json_schema({"type": "object"} if schema is None else schema)
        if method == "function_calling":
            if json_schema.get("type", "object") != "object":
                raise ValueError(
                    f"method={method!r} needs an object, as arguments of a call are one, and "
                    f"{schema!r} is of type {json_schema['type']!r}. Use method='json_schema'."
                )
            (tool,) = tool_list([json_schema if build else schema], strict=strict)
            name = tool["function"]["name"]
            llm = self.bind_tools(
                [tool], tool_choice=name, strict=strict, parallel_tool_calls=False,
                ls_structured_output_format=told, **kwargs,
            )  # fmt: skip
            arguments: Runnable[Any, Any] = JsonOutputKeyToolsParser(
                key_name=name, first_tool_only=True
            )
            parser = arguments if build is None else arguments | RunnableLambda(build)
        else:
            grammar = schema_grammar(json_schema, strict=strict)
            llm = self.bind(grammar=grammar, ls_structured_output_format=told, **kwargs)
            parser = SchemaParser.of(build, grammar)
        if not include_raw:
            return llm | parser
        assign = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        none = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=llm) | assign.with_fallbacks([none], exception_key="parsing_error")


def _choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    return None if choice is None else tool_choice(choice, tools)


def format_grammar(given: Any, strict: bool | None) -> Grammar | None:
    """The grammar of a `response_format` in OpenAI's form; None for plain text.

    Args:
        given: What was asked for.
        strict: True: what a grammar cannot hold of a schema is an error.

    Raises:
        GrammarError: The schema cannot be used.
        ValueError: It is no such format.
    """
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return schema_grammar(given.get("schema") or {"type": "object"}, strict=strict)
    if kind == "json_schema" and isinstance(given.get("json_schema"), Mapping):
        return schema_grammar(given["json_schema"].get("schema") or {}, strict=strict)
    raise ValueError(
        f'response_format={given!r} must be {{"type": "text"}}, {{"type": "json_object"}} or '
        '{"type": "json_schema", "json_schema": {"schema": …}}.'
    )
