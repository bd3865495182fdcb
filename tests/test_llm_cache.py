"""LangChain's caches: an answer belongs to all that decides it, and says where it comes from."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumpd, dumps, loads
from langchain_core.messages import AIMessage
from langchain_core.outputs import Generation

from helpers import Grammar, Timings, TimingsRecorder
from helpers.engine import LoadOptions, Request
from helpers.llm.fields import SAMPLING
from tests.hostile.base import FRANCE, MODEL, STORY, make


class SqliteCache(BaseCache):
    """What `langchain_community.cache.SQLiteCache` does, for where that is not installed.

    Keeps LangChain's JSON of each generation; what cannot be read back is taken for a text, as
    that class takes the entries of its own first versions.
    """

    def __init__(self, database_path: str) -> None:
        self._table = sqlite3.connect(database_path, check_same_thread=False)
        self._table.execute("create table if not exists llm (prompt, llm, response)")

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        rows = self._table.execute(
            "select response from llm where prompt = ? and llm = ?", (prompt, llm_string)
        ).fetchall()
        try:
            return [loads(row[0]) for row in rows] or None
        except Exception:
            return [Generation(text=row[0]) for row in rows]

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        rows = [(prompt, llm_string, dumps(generation)) for generation in return_val]
        self._table.executemany("insert into llm values (?, ?, ?)", rows)

    def clear(self, **kwargs: Any) -> None:
        self._table.execute("delete from llm")


try:
    from langchain_community.cache import SQLiteCache
except ImportError:
    SQLiteCache = SqliteCache


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseCache]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `loads` is called beta
        if request.param == "memory":
            yield InMemoryCache()
        else:
            yield SQLiteCache(database_path=str(tmp_path / "answers.db"))


def kept(answer: Generation) -> bool:
    return "from_cache" in (answer.generation_info or {})


# -- the second answer ----------------------------------------------------------------------------


def test_a_kept_answer_is_the_first_one_and_says_so(cache: BaseCache) -> None:
    llm = make(cache=cache, logprobs=2, max_tokens=8)
    recorder = TimingsRecorder()
    first = llm.generate([FRANCE], callbacks=[recorder]).generations[0][0]
    assert llm.last_timings == first.generation_info["timings"]
    again = llm.generate([FRANCE], callbacks=[recorder]).generations[0][0]
    assert again.text == first.text == make(max_tokens=8).invoke(FRANCE)
    assert again.generation_info == {**first.generation_info, "from_cache": True}
    assert isinstance(again.generation_info["timings"], Timings)
    assert not kept(first)
    # Nothing was computed: no timings that could be taken for those of this call.
    assert llm.last_timings is None
    assert len(recorder) == 1
    mixed = llm.generate([FRANCE, "1, 2, 3,"]).generations
    assert [kept(answer) for (answer,) in mixed] == [True, False]
    assert llm.last_timings == mixed[1][0].generation_info["timings"]


def test_awaited_answers_are_kept_too(cache: BaseCache) -> None:
    llm = make(cache=cache)

    async def run() -> list[bool]:
        found = [await llm.agenerate([FRANCE], max_tokens=count) for count in (3, 3, 2)]
        assert llm.last_timings is not None
        return [kept(result.generations[0][0]) for result in found]

    assert asyncio.run(run()) == [False, True, False]
    assert llm.batch([FRANCE, FRANCE], max_tokens=3) == [llm.invoke(FRANCE, max_tokens=3)] * 2


def test_the_global_cache_is_used_and_can_be_declined(cache: BaseCache) -> None:
    set_llm_cache(cache)
    try:
        found = [make(**given).generate([FRANCE]) for given in ({}, {}, {"cache": False})]
    finally:
        set_llm_cache(None)
    assert [kept(result.generations[0][0]) for result in found] == [False, True, False]
    with pytest.raises(ValueError, match="No global cache"):
        make(cache=True).invoke(FRANCE)


# -- whose answer it is ---------------------------------------------------------------------------

LONG = 'root ::= "' + "a long beginning " * 20
LIST = {"type": "array", "items": {"type": "integer"}}
OTHERS: list[dict[str, Any]] = [
    {"n_ctx": 300},
    {"n_batch": 64},
    {"n_threads": 2},
    {"rope_freq_base": 1000.0},
    {"rope_freq_scale": 0.5},
    {"type_k": "q8_0"},
    {"flash_attn": False},
    {"swa_full": True},
    {"model_kwargs": {"n_ubatch": 64}},
    {"model_kwargs": {"yarn_ext_factor": 0.5}},
    {"model_kwargs": {"kv_overrides": {"tokenizer.ggml.add_bos_token": True}}},
    {"max_tokens": 3},
    {"temperature": 1.0},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.0, "seed": 2},
    {"top_k": 2},
    {"top_p": 0.5},
    {"min_p": 0.5},
    {"typical_p": 0.5},
    {"repeat_penalty": 2.0},
    {"frequency_penalty": 1.0},
    {"presence_penalty": 1.0},
    {"last_n_tokens_size": 1},
    {"logprobs": 1},
    {"logit_bias": {260: 1.0}},
    {"echo": True},
    {"suffix": "!"},
    {"stop": ["Par"]},
    {"stop": ["is"]},
    {"grammar": LONG + '1"'},
    {"grammar": LONG + '2"'},
    {"grammar": Grammar.from_string(LONG + '3"')},
    {"grammar": Grammar.from_json_schema(LIST | {"maxItems": 2})},
    {"grammar": Grammar.from_json_schema(LIST | {"title": "a" * 99, "maxItems": 3})},
    {"grammar": Grammar.from_json_schema(LIST | {"title": "a" * 99, "maxItems": 4})},
]
PER_CALL = [given for given in OTHERS if set(given) & {*SAMPLING, "stop", "grammar"}]


def test_no_model_gets_another_one_s_answer() -> None:
    keys = set()
    for given in [{}, *OTHERS]:
        llm = make(**given)
        keys.add(str(sorted(llm.asdict().items())))
        json.dumps(llm.asdict())
    assert len(keys) == len(OTHERS) + 1
    first = make().asdict()
    for same in ({}, {"isolate": True}, {"verbose": False}, {"streaming": False}, {"tags": ["a"]}):
        assert make(**same).asdict() == first
    assert {f.name for f in dataclasses.fields(LoadOptions)} - set(first) == {
        "isolate", "n_parallel", "use_mmap", "use_mlock", "check_tensors", "no_perf",
        "cache_dir", "cache_dir_mib", "continuous_batching", "speculate",
    }  # fmt: skip
    assert {f.name for f in dataclasses.fields(Request)} - set(first) == {
        "prompt", "stop", "user", "speculate",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The answer was cut off")
def test_no_call_gets_another_one_s_answer() -> None:
    cache = InMemoryCache()
    llm = make(cache=cache)
    for count in (1, 2):
        for given in [{}, *PER_CALL]:
            (answer,) = llm.generate([FRANCE], **{"max_tokens": 2} | given).generations[0]
            assert kept(answer) == (count == 2), given
    assert len(cache._cache) == len(PER_CALL) + 1
    # A parameter of the call and a field of the same value are the same.
    (answer,) = make(cache=cache, max_tokens=2, top_k=2).generate([FRANCE]).generations[0]
    assert kept(answer)


def test_own_stop_strings_are_not_lost(cache: BaseCache) -> None:
    plain, stopped = make(cache=cache, max_tokens=8), make(cache=cache, max_tokens=8, stop="Paris")
    text = plain.invoke(FRANCE)
    assert "Paris" in text
    assert stopped.invoke(FRANCE) == text[: text.index("Paris")]
    assert plain.invoke(FRANCE, stop=["Paris"]) == text[: text.index("Paris")]
    assert stopped.invoke(FRANCE, stop=[text[1]]) == text[:1]
    assert stopped.invoke(FRANCE) == text[: text.index("Paris")]


def test_files_are_told_apart_by_what_they_are(tmp_path: Path, cache: BaseCache) -> None:
    file = tmp_path / "answer.gbnf"
    answers = []
    for word in ("one", "two"):
        file.write_text(f'root ::= "{word}"', "utf-8")
        answers.append(make(cache=cache, grammar_path=file).invoke(FRANCE))
        answers.append(make(cache=cache).invoke(FRANCE, grammar_path=file))
    assert answers == ["one", "one", "two", "two"]
    model = tmp_path / "m.gguf"
    shutil.copy(MODEL, model)
    with make(model_path=model, cache=cache) as first:
        first.invoke(FRANCE)
        (again,) = make(model_path=model, cache=cache).generate([FRANCE]).generations[0]
        assert kept(again)
    shutil.copy(MODEL, tmp_path / "other.gguf")  # as if trained further: same path and size
    (tmp_path / "other.gguf").replace(model)
    with make(model_path=model, cache=cache) as second:
        (answer,) = second.generate([FRANCE]).generations[0]
    assert not kept(answer)


def test_an_adapter_is_part_of_the_model() -> None:
    assert "lora_path" in make().asdict() and "lora_scale" in make().asdict()


# -- results as data ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_results_survive_langchain_s_and_python_s_json() -> None:
    answer = make().generate([STORY]).generations[0][0]
    timings = answer.generation_info["timings"]
    assert isinstance(timings, Timings)
    back = loads(dumps(answer))
    assert back.text == answer.text
    assert Timings.from_dict(back.generation_info["timings"]) == timings
    assert dumpd(answer)["kwargs"]["generation_info"]["timings"] == timings.to_dict()
    message = AIMessage("Hi", response_metadata={"timings": timings})
    assert loads(dumps(message)).response_metadata["timings"] == timings.to_dict()
    assert json.loads(json.dumps(answer.model_dump()))["generation_info"]["timings"] == timings


def test_streamed_events_carry_the_timings() -> None:
    async def run() -> list[Any]:
        return [event async for event in make().astream_events(FRANCE, version="v2")]

    *_, last = asyncio.run(run())
    info = last["data"]["output"]["generations"][0][0]["generation_info"]
    assert info["timings"]["generated_tokens"] == 4
