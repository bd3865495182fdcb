"""`LlamaCpp`: llama.cpp as a LangChain language model, in this process and safe.

A drop-in for the archived `langchain_community.llms.LlamaCpp`: same field names, same meaning.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import PromptValue, StringPromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import PrivateAttr

from helpers.engine import Completion, Request
from helpers.llm.cache import marked
from helpers.llm.fields import PER_CALL, ModelFields
from helpers.llm.results import final_info, logprobs_info, one_line, text_chunk, token_usage
from helpers.prompt import Prompt


class _PromptValue(StringPromptValue):
    """A prompt whose parts are known; pydantic makes a plain text of the field."""

    _prompt: str = PrivateAttr()

    def __init__(self, text: Prompt) -> None:
        super().__init__(text=text)
        self._prompt = text

    def to_string(self) -> str:
        return self._prompt


class LlamaCpp(ModelFields, BaseLLM):
    """A GGUF model run by llama.cpp.

    Loading is checked before anything native sees the file, calls from any number of threads and
    tasks are safe, and every result carries its `Timings`.

    >>> from helpers import LlamaCpp, default_model
    >>> LlamaCpp(model_path=default_model(), temperature=0, max_tokens=3).invoke("1, 2, 3,")
    ' 4,'
    """

    streaming: bool = True
    """Tell the callbacks about each new piece of text, in `invoke` too."""

    @property
    def _llm_type(self) -> str:
        return "llamacpp"

    # -- calls ------------------------------------------------------------------------------------

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        """LangChain's form of an input, in which a `Prompt` keeps its parts."""
        if isinstance(model_input, Prompt):
            return _PromptValue(text=model_input)
        return super()._convert_input(model_input)

    def generate(
        self, prompts: list[str], stop: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """Answer several prompts, from LangChain's cache where there is one and it has the answer.

        An answer belongs to all that decides it: the files, the fields, the call's parameters. One
        that was drawn (`temperature` above 0) is kept as well, with `seed=-1` too: ask with
        `cache=False` for a new one each time. An answer from the cache has `from_cache` in its
        `generation_info`, beside the timings of the call that made it; `last_timings` is None.

        Args:
            prompts: The prompts.
            stop: Strings that end an answer, added to the model's own.
            callbacks: LangChain's callbacks.
            **kwargs: Parameters of the call, and LangChain's `tags`, `metadata` and the like.

        Returns:
            One generation for each prompt, in their order.
        """
        caller, rest = self._caller(stop, kwargs)
        return super(LlamaCpp, caller).generate(prompts, caller.stop, callbacks, **rest)

    async def agenerate(
        self, prompts: list[str], stop: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """`generate` without blocking the event loop."""
        caller, rest = self._caller(stop, kwargs)
        return await super(LlamaCpp, caller).agenerate(prompts, caller.stop, callbacks, **rest)

    def _caller(self, stop: Any, kwargs: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The model of one call, and what is left of the call's parameters for LangChain.

        LangChain asks its caches with the fields alone, without the parameters of the call.
        """
        self._timings.set(None)
        given = {name: value for name, value in kwargs.items() if name in PER_CALL}
        caller = self._for_call(stop, given)
        caller.__dict__["cache"] = marked(self.cache)
        return caller, {name: value for name, value in kwargs.items() if name not in given}

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answer several prompts, up to `n_parallel` of them side by side.

        Args:
            inputs: The prompts.
            config: One configuration for all, or one for each.
            return_exceptions: Put the exception of a prompt that fails in its place instead of
                raising it; the other answers are not lost.
            **kwargs: Parameters of the call.

        Returns:
            The answers, in the order of the prompts.
        """
        if not return_exceptions:
            return super().batch(inputs, config, **kwargs)
        # LangChain gives one prompt's exception to the whole batch. A call for each, made in
        # threads, keeps them apart; the engine decodes them side by side all the same.
        configs = [
            {**one, "max_concurrency": one.get("max_concurrency") or self.n_parallel}
            for one in get_config_list(config, len(inputs))
        ]
        return Runnable.batch(self, inputs, configs, return_exceptions=True, **kwargs)  # type: ignore[arg-type]

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """`batch` without blocking the event loop."""
        if not return_exceptions:
            return await super().abatch(inputs, config, **kwargs)
        return await Runnable.abatch(self, inputs, config, return_exceptions=True, **kwargs)

    def _tells_tokens(self, requests: list[Request], handlers: list[Any]) -> bool:
        """Whether callbacks want each piece of text; several answers share one manager."""
        return len(requests) == 1 and self.streaming and bool(handlers)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = [self._request(prompt, stop, kwargs) for prompt in prompts]
        if run_manager is None or not self._tells_tokens(requests, run_manager.handlers):
            return self._result(requests, self._engine.generate_many(requests))
        items = list(self._items(requests[0], run_manager))
        return self._result(requests, [item for item in items if isinstance(item, Completion)])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = [self._request(prompt, stop, kwargs) for prompt in prompts]
        if run_manager is None or not self._tells_tokens(requests, run_manager.handlers):
            return self._result(requests, await self._engine.agenerate_many(requests))
        items = [item async for item in self._aitems(requests[0], run_manager)]
        return self._result(requests, [item for item in items if isinstance(item, Completion)])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        request = self._request(prompt, stop, kwargs)
        with closing(self._items(request, run_manager)) as items:
            for item in items:
                yield self._last_chunk(request, item) if isinstance(item, Completion) else item

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        request = self._request(prompt, stop, kwargs)
        async with aclosing(self._aitems(request, run_manager)) as items:
            async for item in items:
                yield self._last_chunk(request, item) if isinstance(item, Completion) else item

    def _items(
        self, request: Request, run_manager: CallbackManagerForLLMRun | None
    ) -> Generator[GenerationChunk | Completion]:
        """Pieces of text, which callbacks are told about, and finally the completion."""
        # A callback may raise, and its traceback then keeps this frame: close, do not wait.
        with closing(self._engine.stream(request)) as items:
            for item in items:
                if isinstance(item, Completion):
                    yield item
                    return
                chunk = text_chunk(item)
                if run_manager is not None:
                    run_manager.on_llm_new_token(item.text, chunk=chunk)
                yield chunk

    async def _aitems(
        self, request: Request, run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncGenerator[GenerationChunk | Completion]:
        """`_items` without blocking the event loop."""
        async with aclosing(self._engine.astream(request)) as items:
            async for item in items:
                if isinstance(item, Completion):
                    yield item
                    return
                chunk = text_chunk(item)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(item.text, chunk=chunk)
                yield chunk

    def _last_chunk(self, request: Request, completion: Completion) -> GenerationChunk:
        self._note(completion)
        return GenerationChunk(text="", generation_info=final_info(request, completion))

    def _result(self, requests: list[Request], completions: list[Completion]) -> LLMResult:
        generations = []
        for request, completion in zip(requests, completions, strict=True):
            self._note(completion)
            info = final_info(request, completion) | (logprobs_info(completion.logprobs) or {})
            generations.append([Generation(text=completion.text, generation_info=info)])
        prompt_tokens = sum(completion.prompt_tokens for completion in completions)
        answer_tokens = sum(completion.generated_tokens for completion in completions)
        return LLMResult(
            generations=list(generations),
            llm_output={
                "model_name": self._model_name,
                "token_usage": token_usage(prompt_tokens, answer_tokens),
            },
        )

    def _note(self, completion: Completion) -> None:
        self._timings.set(completion.timings)
        if self.verbose:
            print(one_line(completion), file=sys.stderr)
