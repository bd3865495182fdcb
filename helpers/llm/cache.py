"""LangChain's caches, with answers that say that they come out of one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.outputs import Generation

from helpers.prompt import Prompt
from helpers.timings import Timings


def marked(cache: BaseCache | bool | None) -> BaseCache | bool | None:
    """The cache that a model's `cache` field stands for, with marked answers; or the field."""
    found = get_llm_cache() if cache is None or cache is True else cache
    return MarkedCache(found) if isinstance(found, BaseCache) else cache


class MarkedCache(BaseCache):
    """Another cache, whose answers are told from new ones.

    What comes out has `"from_cache": True` in its `generation_info` (a message: in its
    `response_metadata`), and `Timings` in place of the dict that a cache which keeps JSON makes of
    them.

    Args:
        cache: The cache that keeps the answers.
    """

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """A kept answer, or None."""
        return _recalled(self._cache.lookup(prompt, _asked(prompt, llm_string)))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep an answer."""
        self._cache.update(prompt, _asked(prompt, llm_string), return_val)

    def clear(self, **kwargs: Any) -> None:
        """Forget all answers."""
        self._cache.clear(**kwargs)

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """`lookup`, as the other cache does it."""
        return _recalled(await self._cache.alookup(prompt, _asked(prompt, llm_string)))

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """`update`, as the other cache does it."""
        await self._cache.aupdate(prompt, _asked(prompt, llm_string), return_val)

    async def aclear(self, **kwargs: Any) -> None:
        """`clear`, as the other cache does it."""
        await self._cache.aclear(**kwargs)


def _asked(prompt: str, llm_string: str) -> str:
    """All that decides an answer beside the prompt's text: how a prompt's parts are read too."""
    return f"{llm_string}, parts {prompt.key}" if isinstance(prompt, Prompt) else llm_string


def _recalled(answers: RETURN_VAL_TYPE | None) -> RETURN_VAL_TYPE | None:
    return [_marked(answer) for answer in answers] if isinstance(answers, list) else answers


def _marked(answer: Generation) -> Generation:
    changes: dict[str, Any] = {"generation_info": _told(answer.generation_info)}
    message = getattr(answer, "message", None)
    if message is not None:
        told = _told(message.response_metadata)
        changes["message"] = message.model_copy(update={"response_metadata": told})
    return answer.model_copy(update=changes)


def _told(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    info = {**(facts or {}), "from_cache": True}
    timings = info.get("timings")
    if isinstance(timings, Mapping):
        with suppress(TypeError, ValueError):  # another version's: it stays a dict
            info["timings"] = Timings.from_dict(timings)
    return info
