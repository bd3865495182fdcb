"""Timings: the published log blocks read exactly, every form of block, and the recorder."""

from __future__ import annotations

import json
import math
import pickle
import random
import subprocess
import sys
import threading

import pytest
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult

from helpers import Timings, TimingsRecorder

# The figures of the five blocks on the LangChain documentation page that the suite replaces:
# load ms, sample ms, sample runs, prompt ms, prompt tokens, eval ms, eval runs, total ms.
PUBLISHED = [
    (358.60, 172.55, 256, 613.36, 16, 10151.17, 255, 11332.41),
    (434.15, 41.81, 121, 2523.78, 48, 23971.57, 121, 28945.95),  # without tokens per second
    (427.63, 115.85, 164, 427.53, 45, 4526.53, 163, 5293.77),
    (357.51, 1213.30, 144, 356.78, 9, 3947.16, 143, 5846.21),
    (322.34, 232.60, 26, 321.90, 11, 680.82, 25, 1295.27),
]
WITHOUT_RATES = 1

TODAY = """\
llama_perf_context_print:        load time =      70.34 ms
llama_perf_context_print: prompt eval time =      70.20 ms /     5 tokens (   14.04 ms per token,    71.23 tokens per second)
llama_perf_context_print:        eval time =      89.37 ms /     7 runs   (   12.77 ms per token,    78.33 tokens per second)
llama_perf_context_print:       total time =     161.79 ms /    12 tokens
llama_perf_context_print:    graphs reused =          6
"""  # noqa: E501


def block(figures: tuple[float, ...], *, rates: bool = True) -> str:
    load, sample, n_sample, prompt, n_prompt, eval_, n_eval, total = figures

    def columns(ms: float, n: float) -> str:
        rate = f", {n / ms * 1e3:8.2f} tokens per second" if rates else ""
        return f"({ms / n:8.2f} ms per token{rate})"

    return (
        f"llama_print_timings:        load time = {load:8.2f} ms\n"
        f"llama_print_timings:      sample time = {sample:8.2f} ms / {n_sample:5d} runs   "
        f"{columns(sample, n_sample)}\n"
        f"llama_print_timings: prompt eval time = {prompt:8.2f} ms / {n_prompt:5d} tokens "
        f"{columns(prompt, n_prompt)}\n"
        f"llama_print_timings:        eval time = {eval_:8.2f} ms / {n_eval:5d} runs   "
        f"{columns(eval_, n_eval)}\n"
        f"llama_print_timings:       total time = {total:8.2f} ms\n"
    )


def expected(figures: tuple[float, ...]) -> Timings:
    load, sample, n_sample, prompt, n_prompt, eval_, n_eval, total = figures
    return Timings(
        load_ms=load,
        sample_ms=sample,
        sample_tokens=int(n_sample),
        prompt_ms=prompt,
        prompt_tokens=int(n_prompt),
        eval_ms=eval_,
        eval_tokens=int(n_eval),
        total_ms=total,
    )


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(PUBLISHED)))
def test_published_block_gives_exactly_its_figures(index: int) -> None:
    text = block(PUBLISHED[index], rates=index != WITHOUT_RATES)
    assert Timings.parse(text) == [expected(PUBLISHED[index])]


def test_published_blocks_in_a_page_of_prose_are_all_found_in_order() -> None:
    page = "# Llama.cpp\n\n```output\nAn answer\n``````output\n"
    page += "```\n\nThe word `llama_print_timings:` in a sentence is no timings line.\n".join(
        block(figures) for figures in PUBLISHED
    )
    assert Timings.parse(page) == [expected(figures) for figures in PUBLISHED]


def test_rates_of_the_published_blocks() -> None:
    first = Timings.parse(block(PUBLISHED[0]))[0]
    assert first.prompt_per_second == pytest.approx(26.09, abs=0.005)
    assert first.eval_per_second == pytest.approx(25.12, abs=0.005)
    # The block that does not print them gives them all the same.
    second = Timings.parse(block(PUBLISHED[1], rates=False))[0]
    assert second.prompt_per_second == pytest.approx(48 / 2.52378)
    assert second.eval_per_second == pytest.approx(121 / 23.97157)


def test_block_of_today() -> None:
    assert Timings.parse(TODAY) == [
        Timings(
            load_ms=70.34,
            prompt_ms=70.20,
            prompt_tokens=5,
            eval_ms=89.37,
            eval_tokens=7,
            total_ms=161.79,
        )
    ]


def test_figures_a_log_does_not_give_are_none() -> None:
    timings = Timings.parse(TODAY)[0]
    absent = ("sample_ms", "sample_tokens", "cached_tokens", "generated_tokens", "first_token_ms")
    assert [getattr(timings, name) for name in (*absent, "token_ms")] == [None] * 6


def test_two_blocks_in_a_row_without_a_line_between() -> None:
    assert len(Timings.parse(TODAY + TODAY)) == 2
    both = Timings.parse(block(PUBLISHED[0]) + TODAY + block(PUBLISHED[1]))
    assert [t.load_ms for t in both] == [358.60, 70.34, 434.15]


def test_a_block_cut_off_in_the_middle_does_not_swallow_the_next() -> None:
    cut = "".join(block(PUBLISHED[0]).splitlines(keepends=True)[:3])
    first, second = Timings.parse(cut + block(PUBLISHED[1]))
    assert (first.prompt_ms, first.eval_ms, first.total_ms) == (613.36, None, None)
    assert second == expected(PUBLISHED[1])


@pytest.mark.parametrize(
    "sampler",
    [
        "llama_perf_sampler_print:    samplers time =       4.50 ms /    12 runs\n",
        "llama_perf_sampler_print:    sampling time =       4.50 ms /    12 runs   "
        "(    0.38 ms per token,  2666.67 tokens per second)\n",
        "common_perf_print:    sampling time =       4.50 ms\n"
        "common_perf_print:    samplers time =       1.25 ms /    12 tokens\n",
    ],
    ids=["samplers", "sampling of 2024", "common"],
)
def test_sampler_lines_belong_to_the_block_after_them(sampler: str) -> None:
    text = (sampler + TODAY) * 2
    for timings in Timings.parse(text):
        assert (timings.sample_ms, timings.sample_tokens) == (4.5, 12)
        assert (timings.eval_ms, timings.total_ms) == (89.37, 161.79)
    assert len(Timings.parse(text)) == 2


def test_block_of_the_command_line_program_with_times_and_levels() -> None:
    text = "".join(
        f"0.01.234.567 I {line.replace('llama_perf_context_print', 'common_perf_print')}\n"
        for line in TODAY.splitlines()
    )
    unaccounted = (
        "common_perf_print: unaccounted time =       2.22 ms /   1.4 %"
        "      (total - sampling - prompt eval - eval) / (total)\n"
    )
    assert Timings.parse(text + unaccounted) == Timings.parse(TODAY)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\n".join(f"\x1b[0m\x1b[32m{line}\x1b[0m" for line in text.splitlines()),
        lambda text: "\n".join(f"> {line}" for line in text.splitlines()),
        lambda text: text.replace("\n", " "),
        lambda text: "an answer that does not end its line" + text,
        lambda text: "".join(f"\t{json.dumps(line + chr(10))},\n" for line in text.splitlines()),
        lambda text: text.replace("78.33", "inf").replace("12.77", "-nan(ind)"),
        lambda text: text.replace("ms per token,", "ms per token, "),
        lambda text: f"ggml_metal_init: allocating\n{text}~llama_context: CPU buffer\n",
    ],
    ids=["CRLF", "ANSI", "quoted", "one line", "glued", "JSON", "inf", "spaces", "log around"],
)
def test_blocks_inside_other_text(spoil) -> None:
    assert Timings.parse(spoil(TODAY)) == Timings.parse(TODAY)
    assert Timings.parse(spoil(TODAY + TODAY)) == Timings.parse(TODAY + TODAY)


def test_oldest_form_with_ms_per_run() -> None:
    line = "llama_print_timings:        eval time =  3000.00 ms /  32 runs   (   93.75 ms per run)"
    assert Timings.parse(line) == [Timings(eval_ms=3000.0, eval_tokens=32)]


@pytest.mark.parametrize(
    "line",
    [
        "llama_print_timings: banana",
        "llama_print_timings:        load time =   abc ms",
        "llama_print_timings:        load time =   12.00 s",
        "llama_print_timings:      banana time =   12.00 ms",
        "llama_print_timings:        eval time = 10151.17 ms /   255 runs   (   39.81 ms per tok",
        "llama_print_timings:        load time =   358.60 ms and more",
        "llama_perf_context_print:        load time = ",
        "llama_perf_context_print:    graphs reused =  6 ms",
        "an answer llama_print_timings:        load time =   ?",
    ],
)
def test_garbage_raises_and_shows_the_line(line: str) -> None:
    with pytest.raises(ValueError) as caught:
        Timings.parse(f"{TODAY}{line}\n{TODAY}")
    assert line.strip() in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "no timings here", "eval time = 3.00 ms"])
def test_text_without_a_block_raises(text: str) -> None:
    with pytest.raises(ValueError, match="no timings block"):
        Timings.parse(text)


# --- the object ------------------------------------------------------------------------------


def random_timings(rng: random.Random) -> Timings:
    def maybe(value: float) -> float | None:
        return None if rng.random() < 0.2 else value

    figures: dict[str, float | None] = {}
    for step, tokens in [("sample", True), ("prompt", True), ("eval", True), ("load", False)]:
        ms = maybe(round(rng.choice([0.0, 10 ** rng.uniform(-2, 7)]), 2))
        figures[f"{step}_ms"] = ms
        if tokens and ms is not None:
            figures[f"{step}_tokens"] = maybe(rng.choice([0, 1, rng.randrange(100_000)]))
    figures["total_ms"] = round(rng.uniform(0, 1e6), 2)
    return Timings(**figures)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_printed_reads_back_to_the_same_figures(seed: int) -> None:
    rng = random.Random(seed)
    several = [random_timings(rng) for _ in range(rng.randrange(1, 5))]
    text = "\n".join(str(timings) for timings in several)
    assert Timings.parse(text) == several
    assert [str(timings) for timings in Timings.parse(text)] == [str(t) for t in several]


def test_printed_block_is_the_familiar_one() -> None:
    assert str(expected(PUBLISHED[3])) == (
        "llama_print_timings:        load time =   357.51 ms\n"
        "llama_print_timings:      sample time =  1213.30 ms /   144 runs   "
        "(    8.43 ms per token,   118.68 tokens per second)\n"
        "llama_print_timings: prompt eval time =   356.78 ms /     9 tokens "
        "(   39.64 ms per token,    25.23 tokens per second)\n"
        "llama_print_timings:        eval time =  3947.16 ms /   143 runs   "
        "(   27.60 ms per token,    36.23 tokens per second)\n"
        "llama_print_timings:       total time =  5846.21 ms"
    )


@pytest.mark.parametrize(
    ("ms", "tokens"),
    [(None, None), (None, 3), (3.0, None), (0.0, 3), (3.0, 0), (math.inf, 3), (math.nan, 3)],
)
def test_rate_is_none_where_it_cannot_be_computed(ms: float | None, tokens: int | None) -> None:
    timings = Timings(prompt_ms=ms, prompt_tokens=tokens, eval_ms=ms, eval_tokens=tokens)
    assert timings.prompt_per_second is None
    assert timings.eval_per_second is None
    assert str(timings)


def test_dict_and_json_and_pickle_round_trip() -> None:
    timings = Timings(load_ms=1.5, generated_tokens=3, first_token_ms=9.0, token_ms=[9.0, 1.0, 2.0])
    assert Timings.from_dict(json.loads(json.dumps(timings.to_dict()))) == timings
    assert pickle.loads(pickle.dumps(timings)) == timings
    assert list(timings.to_dict()) == [
        *("load_ms", "sample_ms", "sample_tokens", "prompt_ms", "prompt_tokens", "cached_tokens"),
        *("eval_ms", "eval_tokens", "generated_tokens", "guessed_tokens", "right_tokens"),
        *("total_ms", "first_token_ms", "token_ms"),
    ]


def test_dict_holds_a_copy_of_the_list() -> None:
    timings = Timings(token_ms=[1.0])
    timings.to_dict()["token_ms"].append(2.0)
    assert timings.token_ms == [1.0]


def test_foreign_numbers_become_plain_ones() -> None:
    import numpy as np

    timings = Timings(eval_ms=np.float32(1.5), eval_tokens=np.int32(3), token_ms=np.array([1.5]))
    assert json.dumps(timings.to_dict())
    assert type(timings.eval_tokens) is int
    assert hash(timings) == hash(Timings(eval_ms=1.5, eval_tokens=3))


def test_from_dict_names_the_unknown_field() -> None:
    with pytest.raises(ValueError, match="'evil_ms'"):
        Timings.from_dict({"evil_ms": 1.0})


def test_timings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Timings().load_ms = 3.0  # type: ignore[misc]


def test_html_table_shows_what_was_measured_and_nothing_else() -> None:
    html = Timings(eval_ms=100.0, eval_tokens=10, cached_tokens=7)._repr_html_()
    for part in ("eval", "100.00", "<td style='text-align:right'>10</td>", "100.0", "10.00", ">7<"):
        assert part in html
    assert "sample" not in html
    assert "None" not in html


def test_importing_timings_is_cheap() -> None:
    code = (
        "import sys, helpers.timings\n"
        "heavy = {'langchain_core', 'pandas', 'numpy', 'matplotlib', 'llama_cpp'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the recorder ----------------------------------------------------------------------------


class FakeLLM(BaseLLM):
    as_dict: bool = True
    measured: bool = True

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(self, prompts, stop=None, run_manager=None, **kwargs) -> LLMResult:
        if "fail" in prompts[0]:
            raise RuntimeError("on purpose")
        generations = []
        for prompt in prompts:
            timings = Timings(eval_ms=10.0 * len(prompt), eval_tokens=len(prompt), load_ms=5.0)
            info = {"timings": timings.to_dict() if self.as_dict else timings}
            generation = Generation(text="ok", generation_info=info if self.measured else None)
            generations.append([generation])
        return LLMResult(generations=generations)


class FakeChat(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "fake-chat"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
        metadata = {"timings": Timings(eval_ms=50.0, eval_tokens=5).to_dict()}
        message = AIMessage("ok", response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.mark.parametrize("as_dict", [True, False])
def test_recorder_collects_every_call(as_dict: bool) -> None:
    recorder = TimingsRecorder()
    llm = FakeLLM(as_dict=as_dict)
    llm.invoke("four", config={"callbacks": [recorder], "run_name": "my run"})
    llm.batch(["a", "bb", "ccc"], config={"callbacks": [recorder]})
    assert len(recorder) == 4
    assert sorted(t.eval_tokens or 0 for t in recorder.timings) == [1, 2, 3, 4]
    frame = recorder.to_frame()
    assert len(frame) == 4
    assert frame["name"][0] == "my run"
    assert sorted(frame["prompt"]) == ["a", "bb", "ccc", "four"]
    assert frame["eval_ms"].sum() == 100.0
    assert frame["eval_tokens_per_second"].tolist() == pytest.approx([100.0] * 4)
    assert frame["eval_tokens"].dtype == "Int64"
    assert frame["sample_ms"].isna().all()


def test_units_are_in_the_column_names() -> None:
    columns = set(TimingsRecorder().to_frame().columns) - {"name", "prompt", "error"}
    assert all(name.endswith(("_ms", "_tokens", "_per_second")) for name in columns)
    measured = {name for name in Timings().to_dict() if name != "token_ms"}
    assert measured <= columns


def test_recorder_reads_several_generations_of_one_run() -> None:
    recorder = TimingsRecorder()
    result = FakeLLM().generate(["a", "bb"], callbacks=[recorder])
    assert len(result.generations) == 2
    assert [t.eval_tokens for t in recorder.timings] == [1, 2]


def test_recorder_reads_chat_models() -> None:
    recorder = TimingsRecorder()
    FakeChat().invoke([("system", "short"), ("human", "hello  you")], {"callbacks": [recorder]})
    assert recorder.timings == [Timings(eval_ms=50.0, eval_tokens=5)]
    assert recorder.to_frame()["prompt"].tolist() == ["hello you"]


async def test_recorder_works_with_ainvoke() -> None:
    recorder = TimingsRecorder()
    await FakeLLM().ainvoke("four", config={"callbacks": [recorder]})
    assert [t.eval_tokens for t in recorder.timings] == [4]


def test_an_error_is_a_row_and_no_timings() -> None:
    recorder = TimingsRecorder()
    with pytest.raises(RuntimeError, match="on purpose"):
        FakeLLM().invoke("fail", config={"callbacks": [recorder]})
    assert recorder.timings == []
    assert recorder.to_frame()["error"].tolist() == ["RuntimeError"]


def test_a_model_that_measures_nothing_is_a_row_and_no_timings() -> None:
    recorder = TimingsRecorder()
    FakeLLM(measured=False).invoke("four", config={"callbacks": [recorder]})
    assert recorder.timings == []
    assert len(recorder.to_frame()) == 1


def test_long_prompts_are_shortened() -> None:
    recorder = TimingsRecorder()
    FakeLLM().invoke("word " * 50, config={"callbacks": [recorder]})
    prompt = recorder.to_frame()["prompt"][0]
    assert len(prompt) == 60
    assert prompt.endswith("…")


def test_recorder_counts_right_from_many_threads() -> None:
    recorder = TimingsRecorder()
    llm = FakeLLM()

    def work() -> None:
        for n in range(1, 21):
            llm.invoke("x" * n, config={"callbacks": [recorder]})

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.timings) == 120
    assert sum(t.eval_tokens or 0 for t in recorder.timings) == 6 * 210
    assert (recorder.to_frame()["prompt"].str.len() == recorder.to_frame()["eval_tokens"]).all()


def test_clear_forgets_and_an_empty_recorder_is_still_used() -> None:
    recorder = TimingsRecorder()
    llm = FakeLLM()
    llm.invoke("four", config={"callbacks": [recorder]})
    recorder.clear()
    assert len(recorder) == 0
    assert len(recorder.to_frame()) == 0
    llm.invoke("four", config={"callbacks": [recorder]})
    assert len(recorder) == 1


def test_recorder_table_in_jupyter_has_no_empty_columns() -> None:
    recorder = TimingsRecorder()
    FakeLLM().invoke("four", config={"callbacks": [recorder]})
    html = recorder._repr_html_()
    assert "eval_ms" in html
    assert "sample_ms" not in html
