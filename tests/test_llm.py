"""`LlamaCpp` as LangChain and its users see it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, CallbackManager
from langchain_core.messages import HumanMessage
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField

from helpers import (
    ContextOverflowError,
    Grammar,
    HelpersError,
    LlamaCpp,
    Timings,
    TimingsRecorder,
    default_model,
)
from helpers.engine.engine import _cores
from helpers.native.context import Context
from tests.support import ROOT, alive

FRANCE = "The capital of France is"
PROMPTS = [
    FRANCE,
    "Once upon a time, there was a",
    "1, 2, 3, 4,",
    "def add(a, b):\n    return",
    "The sun rises in the",
    "Water freezes at",
    "Roses are red, violets are",
    "Hello",
]


def make(**fields: Any) -> LlamaCpp:
    given = {"model_path": default_model(), "temperature": 0, "max_tokens": 8, "n_ctx": 1024}
    return LlamaCpp(**{**given, **fields})


@pytest.fixture(scope="module")
def llm() -> Iterator[LlamaCpp]:
    with make() as made:
        yield made


@pytest.fixture(scope="module")
def answers(llm: LlamaCpp) -> dict[str, str]:
    """What each prompt is answered alone, greedily."""
    return {prompt: llm.invoke(prompt) for prompt in PROMPTS}


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.results: list[LLMResult] = []
        self.errors: list[BaseException] = []

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.seen.append(token)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.results.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


# -- drop-in --------------------------------------------------------------------------------------

ARCHIVED = {
    "model_path": default_model(),
    "lora_path": None,
    "n_ctx": 512,
    "seed": -1,
    "vocab_only": False,
    "use_mlock": False,
    "n_threads": 1,
    "n_batch": 8,
    "n_gpu_layers": None,
    "suffix": None,
    "max_tokens": 4,
    "temperature": 0.0,
    "top_p": 0.95,
    "logprobs": None,
    "echo": False,
    "stop": [],
    "repeat_penalty": 1.1,
    "top_k": 40,
    "last_n_tokens_size": 64,
    "use_mmap": True,
    "rope_freq_scale": 1.0,
    "rope_freq_base": 100_000.0,
    "model_kwargs": {},
    "streaming": True,
    "grammar_path": None,
    "grammar": None,
    "verbose": False,
}
DEAD = {
    "client": None,
    "lora_base": None,
    "n_parts": -1,
    "f16_kv": True,
    "logits_all": False,
    "callback_manager": None,
}


def test_every_field_of_the_archived_class_is_accepted() -> None:
    with LlamaCpp(**ARCHIVED) as llm:
        assert "Paris" in llm.invoke(FRANCE)


@pytest.mark.parametrize("name", DEAD)
def test_dead_fields_warn_and_name_what_to_use_instead(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"'{name}' has no effect any more: .+") as seen:
        make(**{name: DEAD[name]})
    assert seen[0].filename == __file__  # the caller's line


def test_a_callback_manager_still_serves() -> None:
    handler = Tokens()
    manager = CallbackManager([handler])
    with pytest.warns(DeprecationWarning, match="callbacks"):
        llm = make(callback_manager=manager)
    answer = llm.invoke(FRANCE)
    assert "".join(handler.seen) == answer


@pytest.mark.parametrize(
    ("wrong", "right"), [("temprature", "temperature"), ("n_gpu_layer", "n_gpu_layers")]
)
def test_unknown_names_are_errors_that_name_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=f"{wrong!r}.*Did you mean {right!r}"):
        make(**{wrong: 1})


def test_unknown_names_in_a_call_are_errors(llm: LlamaCpp) -> None:
    with pytest.raises(TypeError, match=r"'max_token'.*'max_tokens'"):
        llm.invoke("x", max_token=1)
    with pytest.raises(TypeError, match="'stops'"):
        list(llm.stream("x", stops=["a"]))
    with pytest.raises(TypeError, match="'n_ctx'"):
        llm.invoke("x", n_ctx=99)


def test_a_path_may_be_text_or_a_path(llm: LlamaCpp) -> None:
    assert llm.model_path == str(default_model())
    assert "Paris" in make(model_path=str(default_model())).invoke(FRANCE)


def test_the_rope_of_the_file_is_used(answers: dict[str, str]) -> None:
    same = make(rope_freq_base=100_000.0)
    assert same.invoke(PROMPTS[1]) == answers[PROMPTS[1]]

    def likelihood(llm: LlamaCpp) -> float:
        long = "The archived class forces another base on every model. " * 20
        info = llm.generate([long], max_tokens=1, logprobs=0).generations[0][0].generation_info
        return info["logprobs"]["token_logprobs"][0]

    assert likelihood(same) == likelihood(make())
    assert likelihood(make(rope_freq_base=10_000.0)) != pytest.approx(likelihood(same), rel=0.01)


def test_model_kwargs_reach_the_context(answers: dict[str, str]) -> None:
    with make(model_kwargs={"n_ubatch": 64, "type_k": "q8_0"}) as llm:
        options = llm._engine.options
        assert (options.n_ubatch, options.type_k) == (64, 8)
        assert "Paris" in llm.invoke(FRANCE)


@pytest.mark.parametrize("value", [None, 0, -1])
def test_without_max_tokens_the_context_is_the_limit(value: int | None) -> None:
    with make(n_ctx=40, logit_bias={0: -100.0, 2: -100.0}) as llm:
        result = llm.generate([FRANCE], max_tokens=value).generations[0][0]
    assert result.generation_info["token_usage"]["total_tokens"] == 40
    assert result.generation_info["finish_reason"] == "length"


def test_echo_and_suffix(llm: LlamaCpp, answers: dict[str, str]) -> None:
    assert llm.invoke(FRANCE, echo=True, suffix="!") == FRANCE + answers[FRANCE] + "!"


# -- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "Hello world", "한국어 문장", "🦙", "a" * 500, "<|im_start|>user\n", "\n\n  x"]
)
def test_get_num_tokens_is_exact(llm: LlamaCpp, text: str) -> None:
    import llama_cpp

    vocabulary = llama_cpp.Llama(str(default_model()), vocab_only=True, verbose=False)
    expected = vocabulary.tokenize(text.encode(), add_bos=True, special=True)
    vocabulary.close()
    assert llm.get_token_ids(text) == expected
    assert llm.get_num_tokens(text) == len(expected)
    if text:
        used = llm.generate([text], max_tokens=1).llm_output
        assert used is not None
        assert used["token_usage"]["prompt_tokens"] == len(expected)


# -- one text, whichever way ----------------------------------------------------------------------


def test_every_way_of_calling_gives_the_same_text(llm: LlamaCpp, answers: dict[str, str]) -> None:
    prompt = PROMPTS[1]
    expected = answers[prompt]

    async def streamed() -> str:
        return "".join([piece async for piece in llm.astream(prompt)])

    assert "".join(llm.stream(prompt)) == expected
    assert asyncio.run(streamed()) == expected
    assert asyncio.run(llm.ainvoke(prompt)) == expected
    assert llm.batch([prompt]) == [expected]
    assert llm.generate([prompt]).generations[0][0].text == expected
    assert llm.invoke([HumanMessage(prompt)]).strip()  # messages are accepted, as by any LLM
    with make(isolate=True) as isolated:
        assert isolated.invoke(prompt) == expected
        assert "".join(isolated.stream(prompt)) == expected
        assert isolated.batch(PROMPTS) == [answers[p] for p in PROMPTS]


def test_batches_answer_in_order(llm: LlamaCpp, answers: dict[str, str]) -> None:
    expected = [answers[prompt] for prompt in PROMPTS]
    assert llm.batch(PROMPTS) == expected
    assert llm.batch(PROMPTS, {"max_concurrency": 3}) == expected
    assert asyncio.run(llm.abatch(PROMPTS)) == expected
    done = dict(llm.batch_as_completed(PROMPTS))
    assert [done[i] for i in range(len(PROMPTS))] == expected


def test_one_failing_prompt_does_not_spoil_the_others(
    llm: LlamaCpp, answers: dict[str, str]
) -> None:
    inputs = [PROMPTS[0], "word " * 2000, PROMPTS[1], "half \ud800", PROMPTS[2]]
    handler = Tokens()
    for results in (
        llm.batch(inputs, {"callbacks": [handler]}, return_exceptions=True),
        asyncio.run(llm.abatch(inputs, return_exceptions=True)),
    ):
        assert [results[i] for i in (0, 2, 4)] == [answers[p] for p in PROMPTS[:3]]
        assert isinstance(results[1], ContextOverflowError)
        assert isinstance(results[3], ValueError)
    assert len(handler.results) == 3
    assert len(handler.errors) == 2
    with pytest.raises(ContextOverflowError, match="2001 tokens") as caught:
        llm.batch(inputs)
    assert (caught.value.n_ctx, caught.value.n_prompt_tokens) == (1024, 2001)


def test_a_seed_repeats_the_text_and_no_seed_does_not(llm: LlamaCpp) -> None:
    def drawn(seed: int) -> str:
        return llm.invoke(PROMPTS[1], temperature=1.2, seed=seed, max_tokens=16)

    assert drawn(11) == drawn(11)
    assert len({drawn(seed) for seed in (11, 12, 13)}) > 1
    assert len({drawn(-1) for _ in range(4)}) > 1


# -- stop -----------------------------------------------------------------------------------------


def test_stop_strings_of_field_and_call_are_merged(answers: dict[str, str]) -> None:
    text = answers[PROMPTS[1]]
    with make(stop=[text[10:13]]) as llm:
        assert llm.invoke(PROMPTS[1]) == text[: text.index(text[10:13])]
        assert llm.invoke(PROMPTS[1], stop=[text[4:6]]) == text[: text.index(text[4:6])]
        assert llm.bind(stop=[text[4:6]]).invoke(PROMPTS[1]) == text[: text.index(text[4:6])]
    assert make(stop=text[4:6]).invoke(PROMPTS[1]) == text[: text.index(text[4:6])]


def test_no_stop_string_leaks_wherever_it_lies(llm: LlamaCpp, answers: dict[str, str]) -> None:
    text = answers[PROMPTS[1]]
    cuts = [(i, i + size) for size in (1, 3, 7) for i in range(0, len(text) - size, 3)]
    for start, end in cuts:
        stop = text[start:end]
        shown = list(llm.stream(PROMPTS[1], stop=[stop]))
        assert "".join(shown) == text[: text.index(stop)]
    result = llm.generate([PROMPTS[1]], stop=[text[3:6]]).generations[0][0]
    assert result.generation_info["finish_reason"] == "stop"


def test_a_character_of_several_tokens_arrives_whole(llm: LlamaCpp) -> None:
    for text in ("🦙", "안녕하세요 👩‍👩‍👧", "日本語"):
        grammar = Grammar.from_string(f"root ::= {json.dumps(text, ensure_ascii=False)}")
        assert llm.get_num_tokens(text) > len(text) // 2
        pieces = list(llm.stream("Say:", grammar=grammar, max_tokens=60))
        assert "".join(pieces) == text
        assert not any("�" in piece for piece in pieces)


# -- grammars -------------------------------------------------------------------------------------


def test_grammars_are_taken_in_every_form(tmp_path: Path) -> None:
    gbnf = 'root ::= "yes" | "no"'
    file = tmp_path / "answer.gbnf"
    file.write_text(gbnf, "utf-8")
    for fields in (
        {"grammar": gbnf},
        {"grammar": Grammar.from_string(gbnf)},
        {"grammar": file},
        {"grammar_path": file},
        {"grammar_path": str(file)},
    ):
        assert make(**fields).invoke("Is water wet?") in ("yes", "no")
    llm = make()
    assert llm.invoke("Is water wet?", grammar=gbnf) in ("yes", "no")
    assert llm.bind(grammar_path=str(file)).invoke("Is water wet?") in ("yes", "no")
    assert make(grammar=gbnf).invoke(FRANCE, grammar=None) == llm.invoke(FRANCE)


# -- log probabilities ----------------------------------------------------------------------------


def test_logprobs_come_whole_and_with_the_stream(llm: LlamaCpp) -> None:
    result = llm.generate([FRANCE], logprobs=3).generations[0][0]
    found = result.generation_info["logprobs"]
    assert "".join(found["tokens"]) == result.text
    assert all(value <= 0 for value in found["token_logprobs"])
    assert all(len(top) == 3 for top in found["top_logprobs"])
    from langchain_core.language_models.llms import BaseLLM

    assert isinstance(llm, BaseLLM)
    pieces = list(llm._stream(FRANCE, logprobs=3))
    streamed = [
        token
        for piece in pieces
        for token in (piece.generation_info or {}).get("logprobs", {}).get("tokens", [])
    ]
    assert streamed == found["tokens"]


# -- timings and usage ----------------------------------------------------------------------------


def check_timings(timings: Timings, usage: dict[str, int]) -> None:
    assert isinstance(timings, Timings)
    assert timings.token_ms is not None
    assert len(timings.token_ms) == timings.generated_tokens == usage["completion_tokens"]
    assert timings.prompt_tokens + timings.cached_tokens == usage["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert timings.token_ms[0] == timings.first_token_ms
    assert 0 < sum(timings.token_ms) <= timings.total_ms
    assert timings.prompt_ms > 0
    assert timings.eval_ms > 0
    assert timings.eval_tokens == timings.generated_tokens - 1
    assert timings.sample_ms > 0
    assert timings.load_ms > 0


@pytest.mark.parametrize("isolate", [False, True])
def test_every_way_of_calling_is_measured(isolate: bool) -> None:
    recorder = TimingsRecorder()
    config: Any = {"callbacks": [recorder]}
    with make(isolate=isolate, max_tokens=5) as llm:
        results: list[tuple[Timings, dict[str, int]]] = []
        whole = llm.generate([FRANCE], callbacks=[recorder])
        info = whole.generations[0][0].generation_info
        assert whole.llm_output["token_usage"] == info["token_usage"]
        results.append((info["timings"], info["token_usage"]))
        for chunks in (list(llm._stream(FRANCE)), asyncio.run(_collect(llm))):
            info = chunks[-1].generation_info
            results.append((info["timings"], info["token_usage"]))
        for generation in llm.generate(PROMPTS[:3]).generations:
            info = generation[0].generation_info
            results.append((info["timings"], info["token_usage"]))
        for timings, usage in results:
            check_timings(timings, usage)
        list(llm.stream(FRANCE, config))
        llm.invoke(FRANCE, config)
        assert llm.last_timings == recorder.timings[-1]
        llm.batch(PROMPTS[:2], config)
        asyncio.run(llm.ainvoke(FRANCE, config))
        assert len(recorder.timings) == 6
        assert {t.generated_tokens for t in recorder.timings} == {5}
        assert list(recorder.to_frame()["error"].dropna()) == []


async def _collect(llm: LlamaCpp) -> list[GenerationChunk]:
    return [chunk async for chunk in llm._astream(FRANCE)]


def test_last_timings_are_those_of_the_thread_or_task(llm: LlamaCpp) -> None:
    def call(count: int) -> int | None:
        llm.invoke(PROMPTS[1], max_tokens=count)
        return llm.last_timings.generated_tokens if llm.last_timings else None

    async def acall(count: int) -> int | None:
        await llm.ainvoke(PROMPTS[1], max_tokens=count)
        return llm.last_timings.generated_tokens if llm.last_timings else None

    async def gathered() -> list[int | None]:
        return await asyncio.gather(*[acall(count) for count in (2, 3, 4, 5)])

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(call, (2, 3, 4, 5))) == [2, 3, 4, 5]
    assert asyncio.run(gathered()) == [2, 3, 4, 5]


def test_a_new_model_has_no_last_timings() -> None:
    assert make().last_timings is None


# -- callbacks ------------------------------------------------------------------------------------


def test_callbacks_stream_tokens_in_invoke(llm: LlamaCpp, answers: dict[str, str]) -> None:
    handler = Tokens()
    assert llm.invoke(FRANCE, {"callbacks": [handler]}) == answers[FRANCE]
    assert "".join(handler.seen) == answers[FRANCE]
    assert len(handler.seen) > 3
    assert handler.results[0].generations[0][0].text == answers[FRANCE]
    quiet = Tokens()
    make(streaming=False).invoke(FRANCE, {"callbacks": [quiet]})
    assert quiet.seen == []
    assert len(quiet.results) == 1


def test_asynchronous_callbacks_stream_tokens_in_ainvoke(
    llm: LlamaCpp, answers: dict[str, str]
) -> None:
    class Later(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            await asyncio.sleep(0)
            self.seen.append(token)

    handler = Later()
    assert asyncio.run(llm.ainvoke(FRANCE, {"callbacks": [handler]})) == answers[FRANCE]
    assert "".join(handler.seen) == answers[FRANCE]


def test_each_prompt_of_a_batch_tells_its_own_callbacks(llm: LlamaCpp) -> None:
    handlers = [Tokens() for _ in range(3)]
    texts = llm.batch(PROMPTS[:3], [{"callbacks": [handler]} for handler in handlers])
    for text, handler in zip(texts, handlers, strict=True):
        assert [result.generations[0][0].text for result in handler.results] == [text]


# -- LangChain's other ways -----------------------------------------------------------------------


def test_chains_and_configurations(llm: LlamaCpp, answers: dict[str, str]) -> None:
    chain = PromptTemplate.from_template("The capital of {country} is") | llm
    assert chain.invoke({"country": "France"}) == answers[FRANCE]
    assert "".join(chain.stream({"country": "France"})) == answers[FRANCE]
    assert chain.batch([{"country": "France"}] * 2) == [answers[FRANCE]] * 2
    recorder = TimingsRecorder()
    chain.with_config(callbacks=[recorder], run_name="named").invoke({"country": "France"})
    assert len(recorder.timings) == 1
    assert llm.with_retry().invoke(FRANCE) == answers[FRANCE]
    assert llm.with_fallbacks([llm]).invoke(FRANCE) == answers[FRANCE]


def test_configurable_fields_make_a_model_that_shares_the_loaded_one(tmp_path: Path) -> None:
    file = tmp_path / "answer.gbnf"
    file.write_text('root ::= "1" | "2"', "utf-8")
    first = make()  # alive, so that all others share what it has loaded
    before = len({id(shared.core) for shared in _cores.values() if shared.core.alive})
    for fields in ({}, {"grammar_path": file}, {"stop": ["x"], "seed": 3}):
        llm = make(**fields)
        flexible = llm.configurable_fields(max_tokens=ConfigurableField(id="length"))
        answer = flexible.with_config(configurable={"length": 1}).invoke(FRANCE)
        assert first.get_num_tokens(answer) <= 1
        assert len({id(shared.core) for shared in _cores.values() if shared.core.alive}) == before


def test_streamed_events(llm: LlamaCpp, answers: dict[str, str]) -> None:
    async def run() -> list[str]:
        return [
            event["data"]["chunk"]
            async for event in llm.astream_events(FRANCE, version="v2")
            if event["event"] == "on_llm_stream"
        ]

    assert "".join(str(getattr(c, "text", c)) for c in asyncio.run(run())) == answers[FRANCE]


# -- concurrency ----------------------------------------------------------------------------------


def test_64_mixed_calls_at_once_are_right(llm: LlamaCpp, answers: dict[str, str]) -> None:
    wanted = [PROMPTS[i % len(PROMPTS)] for i in range(64)]

    def blocking(i: int) -> str:
        way = i % 3
        if way == 0:
            return llm.invoke(wanted[i])
        if way == 1:
            return "".join(llm.stream(wanted[i]))
        return llm.batch([wanted[i]])[0]

    async def waiting(i: int) -> str:
        if i % 2:
            return await llm.ainvoke(wanted[i])
        return "".join([piece async for piece in llm.astream(wanted[i])])

    async def tasks() -> list[str]:
        return await asyncio.gather(*[waiting(i) for i in range(32)])

    with ThreadPoolExecutor(33) as executor:
        loop = executor.submit(asyncio.run, tasks())
        threads = list(executor.map(blocking, range(32, 64)))
        got = [*loop.result(), *threads]
    assert got == [answers[prompt] for prompt in wanted]


def test_the_event_loop_is_not_blocked(llm: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = threading.Event()
    decodes = 0
    compute = Context._run

    def held(context: Context, count: int) -> None:
        """Computes only after the loop, which has calls to wait for, has turned again."""
        nonlocal decodes
        decodes += 1
        if not turned.wait(60):
            raise RuntimeError("the event loop stands still while the model computes")
        turned.clear()
        compute(context, count)

    async def run() -> None:
        calls = asyncio.gather(
            llm.ainvoke("word " * 300, max_tokens=4), llm.abatch(PROMPTS[:3], max_tokens=4)
        )
        while not calls.done():
            turned.set()
            await asyncio.sleep(0.001)
        await calls

    monkeypatch.setattr(Context, "_run", held)
    asyncio.run(run())
    assert decodes > 5


# -- what it prints and reports -------------------------------------------------------------------


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-X", "utf8", "-W", "error"),
            *("-W", "ignore::ResourceWarning"),  # llama_cpp leaves os.devnull open
            *("-c", textwrap.dedent(code)),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )


def test_quiet_means_quiet() -> None:
    done = run_python("""
        from helpers import LlamaCpp, ModelFileError, default_model
        for isolate in (False, True):
            llm = LlamaCpp(model_path=default_model(), max_tokens=4, n_ctx=256, isolate=isolate)
            llm.invoke("Hello"); list(llm.stream("Hello")); llm.batch(["a", "b"])
            assert "llama_model_loader" in llm.native_log
        try:
            LlamaCpp(model_path="nowhere.gguf")
        except ModelFileError as error:
            assert "There is no file" in str(error)
        else:
            raise SystemExit("no error")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verbose_prints_the_report_and_a_line_for_each_call() -> None:
    done = run_python("""
        from helpers import LlamaCpp, default_model
        llm = LlamaCpp(
            model_path=default_model(), max_tokens=4, n_ctx=256, temperature=0, verbose=True
        )
        print(llm.load_report)
        llm.invoke("Once upon a time, there"); list(llm.stream("Once upon a time, there"))
    """)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    report = done.stdout.splitlines()
    assert lines[: len(report)] == report
    assert any("flash attention" in line for line in report)
    calls = lines[len(report) :]
    assert [line.startswith("llama.cpp: ") for line in calls] == [True, True]
    assert "4 generated" in calls[0]
    assert "4 cached" in calls[1]


# -- life -----------------------------------------------------------------------------------------


def test_closing_frees_the_memory() -> None:
    import psutil

    process = psutil.Process()
    llm = make(n_ctx=2048, type_k="f32", type_v="f32")  # 180 MiB of KV cache, zeroed when made
    llm.batch(PROMPTS)
    loaded = process.memory_info().rss
    children = process.children()
    llm.close()
    freed = (loaded - process.memory_info().rss) / 2**20
    report_mib = 150
    assert freed > report_mib
    with make(isolate=True) as isolated:
        (child,) = [c for c in process.children() if c not in children]
        assert isolated.invoke(FRANCE)
        assert child.memory_info().rss > 150 * 2**20
    assert not alive(child)


def test_a_closed_model_says_so() -> None:
    llm = make()
    llm.close()
    llm.close()
    for use in (lambda: llm.invoke("x"), lambda: llm.load_report, lambda: llm.get_num_tokens("x")):
        with pytest.raises(HelpersError, match="has been closed"):
            use()


def test_it_is_described_for_caches_and_traces(llm: LlamaCpp) -> None:
    assert llm._llm_type == "llamacpp"
    assert llm._identifying_params["temperature"] == 0
    assert llm.get_name() == "LlamaCpp"
    assert "LlamaCpp" in repr(llm)
