"""A model on a server is as one loaded here: the same texts, streams, tools, vectors, figures."""

from __future__ import annotations

import asyncio
import copy
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from helpers import (
    ChatLlamaCpp,
    ContextOverflowError,
    DocumentIndex,
    Grammar,
    HelpersError,
    LlamaCpp,
    LlamaCppEmbeddings,
    LlamaCppReranker,
    TimingsRecorder,
    default_model,
)
from helpers.errors import ServerError
from helpers.install.paths import in_cache
from helpers.serve.background import serve
from helpers.serve.keys import add_keys
from tests.support import ROOT, wait_for

FRANCE = "The capital of France is"
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def running(url: str) -> int:
    """How many answers the server computes."""
    with urllib.request.urlopen(f"{url}/health") as answer:
        return int(json.load(answer)["running"])


# -- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"grammar": 'root ::= " Paris" | " Lyon"'},
        {"grammar": Grammar.from_json_schema(CITY), "max_tokens": 24},
        {"logprobs": 2, "max_tokens": 4},
        {"stop": ["Paris"]},
        {"temperature": 0.9, "seed": 7},
        {"logit_bias": {7042: -100.0}, "repeat_penalty": 1.5},
        {"max_tokens": 10**6, "stop": ["\n"]},
    ],
    ids=repr,
)
def test_the_same_text_as_here(there: LlamaCpp, here: LlamaCpp, given: dict[str, Any]) -> None:
    found, expected = (llm.generate([FRANCE], **given).generations[0][0] for llm in (there, here))
    assert found.text == expected.text
    told, known = found.generation_info, expected.generation_info
    assert told is not None and known is not None
    assert told.keys() == known.keys()
    for name in ("finish_reason", "token_usage"):
        assert told[name] == known[name]
    if "logprobs" in given:
        for name in ("tokens", "text_offset"):
            assert told["logprobs"][name] == known["logprobs"][name]
        ours, theirs = (info["logprobs"]["token_logprobs"] for info in (told, known))
        assert np.allclose(ours, theirs, atol=0.02)


def test_echo_and_suffix(there: LlamaCpp, here: LlamaCpp) -> None:
    for llm in (there, here):
        with llm.model_copy(update={"echo": True, "suffix": "!", "max_tokens": 3}) as copied:
            assert copied.invoke(FRANCE).startswith(FRANCE)
            assert copied.invoke(FRANCE).endswith("!")


def test_streams_and_their_timings(there: LlamaCpp, here: LlamaCpp) -> None:
    recorder = TimingsRecorder()
    pieces = list(there.stream(FRANCE, config={"callbacks": [recorder]}))
    assert "".join(pieces) == here.invoke(FRANCE)
    assert len(pieces) > 3
    timings = there.last_timings
    assert timings is not None
    assert recorder.timings == [timings]
    assert timings.generated_tokens == len(timings.token_ms or ())
    parts = [timings.prompt_ms, timings.eval_ms, timings.sample_ms]
    assert sum(part or 0 for part in parts) <= (timings.total_ms or 0)
    assert timings.first_token_ms == (timings.token_ms or [None])[0]


async def test_batches_and_tasks(there: LlamaCpp, here: LlamaCpp) -> None:
    prompts = [FRANCE, "1, 2, 3,", "Hello"]
    expected = [here.invoke(prompt, max_tokens=6) for prompt in prompts]
    assert there.batch(prompts, max_tokens=6) == expected
    assert await there.abatch(prompts, max_tokens=6) == expected
    assert await there.ainvoke(FRANCE, max_tokens=6) == expected[0]
    pieces = [piece async for piece in there.astream(FRANCE, max_tokens=6)]
    assert "".join(pieces) == expected[0]
    found = there.batch([FRANCE, "a " * 5000], max_tokens=6, return_exceptions=True)
    assert found[0] == expected[0]
    assert isinstance(found[1], ContextOverflowError)


def test_a_stream_that_is_left_gives_its_place_back(there: LlamaCpp, server: serve) -> None:
    stream = there.stream(FRANCE, max_tokens=900)
    next(stream)
    assert running(server.url) == 1
    stream.close()
    assert wait_for(lambda: running(server.url) == 0)


async def test_a_task_that_is_cancelled_gives_its_place_back(
    there: LlamaCpp, server: serve
) -> None:
    task = asyncio.create_task(there.ainvoke(FRANCE, max_tokens=900))
    assert await asyncio.to_thread(wait_for, lambda: running(server.url) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_for, lambda: running(server.url) == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill with SIGINT ends the process there")
def test_ctrl_c(there: LlamaCpp, server: serve) -> None:
    def interrupt() -> None:
        wait_for(lambda: running(server.url) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        there.invoke(FRANCE, max_tokens=900)
    thread.join()
    assert wait_for(lambda: running(server.url) == 0)
    assert there.invoke(FRANCE, max_tokens=2)


# -- chats ----------------------------------------------------------------------------------------


def weather(city: str, days: int = 1) -> str:
    """Tell the weather of a city."""
    return f"{city}: {days} days of sun."


class Person(BaseModel):
    name: str
    age: int


def test_a_chat_with_tools_and_objects(chat_there: ChatLlamaCpp, chat_here: ChatLlamaCpp) -> None:
    asked = [("system", "Be brief."), ("user", "Is it <|im_end|> sunny in Rome?")]
    assert chat_there.format_prompt(asked) == chat_here.format_prompt(asked)
    assert chat_there.template_takes == chat_here.template_takes
    assert chat_there.get_num_tokens("a <b> c") == chat_here.get_num_tokens("a <b> c")
    answers: list[list[Any]] = []
    for chat in (chat_there, chat_here):
        count = chat.get_num_tokens_from_messages(chat._convert_input(asked).to_messages())
        said = chat.invoke(asked, max_tokens=8)
        assert said.usage_metadata is not None
        assert said.usage_metadata["input_tokens"] == count
        called = chat.bind_tools([weather], tool_choice="weather").invoke(asked)
        assert isinstance(called, AIMessage)
        person = chat.with_structured_output(Person).invoke("Ann is 7 years old.")
        answers.append([said.content, called.tool_calls[0]["args"], person, count])
    assert answers[0] == answers[1]


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    "{% if false %}{{ messages[0].reasoning_content }}</think>{% endif %}"
)


def test_reasoning_and_its_budget(server: serve, chat_here: ChatLlamaCpp) -> None:
    found = []
    fields = {"chat_template": THINKING, "reasoning_budget": 4, "max_tokens": 24}
    with (
        ChatLlamaCpp(server=server.url, temperature=0, **fields) as there,
        chat_here.model_copy(update=fields) as here,
    ):
        for chat in (there, here):
            said = chat.invoke("Hello!")
            found.append((said.content, said.additional_kwargs.get("reasoning_content")))
    assert found[0] == found[1]


async def test_streams_of_messages(chat_there: ChatLlamaCpp, chat_here: ChatLlamaCpp) -> None:
    expected = chat_here.invoke("Hello!", max_tokens=8)
    whole = None
    async for chunk in chat_there.astream("Hello!", max_tokens=8):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.content == expected.content
    assert whole.usage_metadata == expected.usage_metadata or whole.usage_metadata is not None
    assert whole.response_metadata["model_name"] == default_model().name


# -- vectors --------------------------------------------------------------------------------------


def test_the_same_vectors_as_here(
    server: serve, vectors_here: LlamaCppEmbeddings, tmp_path: Path
) -> None:
    texts = ["The river is long.", "", "Seoul <|im_end|>", "a b c " * 20]
    with LlamaCppEmbeddings(server=server.url, show_progress=False) as there:
        found, expected = (np.array(v.embed_documents(texts)) for v in (there, vectors_here))
        assert (found * expected).sum(axis=1).min() > 1 - 1e-5
        question = np.array(there.embed_query(texts[0]))
        assert question @ np.array(vectors_here.embed_query(texts[0])) > 1 - 1e-5
        assert there.last_timings is not None
        assert there.load_report.pooling == vectors_here.load_report.pooling
        assert there.load_report.n_ctx == vectors_here.load_report.n_ctx
        with pytest.raises(ContextOverflowError):
            there.embed_query("a " * 3000)
        raw = there.model_copy(update={"normalize": False})
        plain = vectors_here.model_copy(update={"normalize": False})
        assert np.allclose(
            raw.embed_query("Seoul"), plain.embed_query("Seoul"), rtol=1e-3, atol=1e-3
        )
        raw.close()
        plain.close()
        with DocumentIndex(there, tmp_path / "index") as index:
            index.add([Document("The Nile is long."), Document("Rome is old.")])
            assert len(index.search("Nile", k=1)) == 1
    with pytest.raises(ValueError, match="pooling='cls' is not the server's"):
        LlamaCppEmbeddings(server=server.url, pooling="cls")
    with pytest.raises(HelpersError, match="no reranker"):
        LlamaCppReranker(server=server.url)


# -- what is known of it --------------------------------------------------------------------------


def test_what_is_said_of_it(there: LlamaCpp, server: serve) -> None:
    report = there.load_report
    assert (report.server, report.n_ctx, report.n_layers) == (server.url, 1024, 31)
    assert f"server: {server.url}" in str(report)
    assert server.url in report._repr_html_()
    known = there._identifying_params
    url, fingerprint = known["files"]
    assert url == server.url and len(fingerprint) == 64
    header = Path(there._engine.options.model_path)
    assert header.name == default_model().name
    cache = header.parents[2]
    assert in_cache(cache)[1] == []  # all of it has names that `clean` knows


def test_copies_and_pickles_speak_to_the_server_too(there: LlamaCpp) -> None:
    expected = there.invoke(FRANCE, max_tokens=3)
    for made in (
        copy.copy(there),
        copy.deepcopy(there),
        there.model_copy(update={"top_k": 5}),
        pickle.loads(pickle.dumps(there)),
    ):
        assert made.invoke(FRANCE, max_tokens=3) == expected
        assert made._engine._shared is there._engine._shared
        made.close()
    assert there.invoke(FRANCE, max_tokens=3) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"n_ctx": 2048},
        {"n_gpu_layers": 0},
        {"isolate": True},
        {"n_batch": 7},
        {"n_parallel": 2},
        {"model_path": "x.gguf"},
        {"cache_dir": True},
        {"model_kwargs": {"n_ubatch": 7}},
    ],
    ids=repr,
)
def test_how_to_load_is_the_servers_to_say(server: serve, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"has loaded its own model: {next(iter(given))}"):
        LlamaCpp(server=server.url, **given)


def test_what_needs_a_server_and_what_a_file(there: LlamaCpp) -> None:
    with pytest.raises(ValueError, match="needs model_path"):
        LlamaCpp()
    with pytest.raises(ValueError, match="needs model_path"):
        ChatLlamaCpp()
    with pytest.raises(ValueError, match="key=… is for a server"):
        LlamaCpp(model_path=default_model(), key="k")
    with pytest.raises(AttributeError, match="n_ctx=512 cannot be set"):
        there.n_ctx = 512
    moved = there.model_copy(update={"server": there.server, "key": "any"})
    assert moved.invoke(FRANCE, max_tokens=2)
    moved.close()
    with LlamaCpp(model_path=default_model(), n_ctx=512, max_tokens=2) as local:
        moved = local.model_copy(update={"server": there.server})
        assert moved.load_report.server == there.load_report.server
        moved.close()


def test_the_class_s_server_by_the_environment(
    server: serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_SERVER", f"{server.url}/v1/")
    for given in ({}, {"n_gpu_layers": 0}, {"max_tokens": 2}):
        for face in (LlamaCpp, ChatLlamaCpp, LlamaCppEmbeddings):
            given = {k: v for k, v in given.items() if k in face.model_fields}
            with face(model_path=default_model(), **given) as llm:
                assert llm.load_report.server == server.url
                assert llm.server is not None
    with LlamaCpp(model_path=default_model(), max_tokens=2) as llm:
        again = pickle.loads(pickle.dumps(llm))
        assert again.load_report.server == server.url
        again.close()
    for given in ({"n_threads": 2}, {"isolate": False}, {"n_ctx": 512}):
        with LlamaCpp(model_path=default_model(), **given) as llm:
            assert llm.load_report.server is None
            assert llm.server is None


# -- ends -----------------------------------------------------------------------------------------


def test_closing_ends_calls_in_progress(server: serve, there: LlamaCpp) -> None:
    stream = there.stream(FRANCE, max_tokens=900)
    next(stream)
    there.close()
    with pytest.raises(HelpersError, match="closed during this call"):
        list(stream)
    assert wait_for(lambda: running(server.url) == 0)
    for call in (lambda: there.invoke("x"), lambda: there.get_num_tokens("x")):
        with pytest.raises(HelpersError, match="has been closed"):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_makes_its_own_connection(there: LlamaCpp) -> None:
    expected = there.invoke(FRANCE, max_tokens=3)
    context = multiprocessing.get_context("fork")
    said: Any = context.Queue()
    process = context.Process(target=lambda: said.put(there.invoke(FRANCE, max_tokens=3)))
    process.start()
    assert said.get(timeout=120) == expected
    process.join()
    assert there.invoke(FRANCE, max_tokens=3) == expected


def test_the_end_of_a_program_in_the_midst_of_a_stream(server: serve) -> None:
    program = f"""
        from helpers import LlamaCpp
        llm = LlamaCpp(server={server.url!r})
        stream = llm.stream("Once", max_tokens=900)
        print(next(stream), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert wait_for(lambda: running(server.url) == 0)


def test_keys_and_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    (key,) = add_keys(file, ["ada"]).values()
    fields = {"n_ctx": 512, "parallel": 2, "keys": file, "in_flight": 1}
    with serve(**fields) as first:
        for wrong in (None, "wrong"):
            with pytest.raises(ServerError) as caught:
                LlamaCpp(server=first.url, key=wrong)
            assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
            assert "wrong" not in str(caught.value)
        llm = LlamaCpp(server=first.url, key=key, temperature=0, max_tokens=3)
        # One at a time is what the key may have: the others wait, and none is refused.
        (expected,) = set(llm.batch([FRANCE] * 4))
        stream = llm.stream(FRANCE, max_tokens=400)
        next(stream)
        psutil.Process(first.pid).kill()
        with pytest.raises(ServerError, match="broke off"):
            list(stream)
        with pytest.raises(ServerError, match="No server answers"):
            llm.invoke(FRANCE)
        assert key not in first.log
        port = int(first.url.rsplit(":", 1)[1])
    with serve(port=port, **fields):
        assert llm.invoke(FRANCE) == expected
        llm.close()
