"""What can go wrong between a client and a server: each is an error that says what it was."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from helpers import ChatLlamaCpp, HelpersError, LlamaCpp, default_model, inspect_model
from helpers.engine import Completion
from helpers.errors import EngineCrashed, GrammarError, ModelFileError, ServerError
from helpers.models.header import header_bytes
from helpers.remote.address import Address, address_of
from helpers.remote.codec import completion_to_json, end_to_json
from helpers.timings import Timings
from tests.remote.conftest import Handler, Scripted

DONE = b"data: [DONE]"
MADE = Completion("", "stop", Timings(first_token_ms=1.0, token_ms=[1.0, 2.0]), 3, 2)


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "index": 0, "finish_reason": None, "logprobs": None}]}


def answer(*lines: Any, whole: bool = True) -> Callable[[Handler], None]:
    return lambda handler: handler.stream(*lines, whole=whole)


WHOLE = answer(piece("a"), piece("b"), end_to_json(MADE), DONE)


# -- streams --------------------------------------------------------------------------------------


def test_a_whole_stream_is_an_answer(pretender: Scripted) -> None:
    pretender.answers["/v1/completions"] = answer(
        b": a comment", piece("a"), b"", piece("b"), end_to_json(MADE), DONE
    )
    with LlamaCpp(server=pretender.url) as llm:
        assert llm.invoke("x") == "ab"
        timings = llm.last_timings
        assert timings is not None
        assert timings.first_token_ms is not None and timings.token_ms is not None
        assert 0 < timings.first_token_ms <= (timings.total_ms or 0)
        assert timings.token_ms == [timings.first_token_ms, 2.0]


def test_usage_may_come_in_a_line_of_its_own(pretender: Scripted) -> None:
    last = end_to_json(MADE)
    usage = {"choices": [], "usage": last.pop("usage")}
    pretender.answers["/v1/completions"] = answer(piece("a"), {**last, "usage": None}, usage, DONE)
    with LlamaCpp(server=pretender.url) as llm:
        found = llm.generate(["x"]).generations[0][0]
        assert found.text == "a"
        assert found.generation_info["token_usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("lines", "whole"),
    [
        ([], True),
        ([], False),
        ([piece("a")], True),
        ([piece("a")], False),
        ([piece("a"), DONE], True),
        ([piece("a"), end_to_json(MADE)], True),
        ([piece("a"), end_to_json(MADE)], False),
        ([piece("a"), b"data: {", DONE], True),
        ([piece("a"), b"data: [" + b"[" * 100_000, DONE], True),
        ([piece("a"), b"data: 7", DONE], True),
        ([piece("a"), {"choices": [{"text": 7, "finish_reason": None}]}, DONE], True),
        ([piece("a"), {"choices": [{}]}, DONE], True),
        ([piece("a"), {**end_to_json(MADE), "usage": {}}, DONE], True),
        ([piece("a"), {**end_to_json(MADE), "timings": {"eval_ms": "x"}}, DONE], True),
    ],
)
def test_half_an_answer_is_none(pretender: Scripted, lines: list[Any], whole: bool) -> None:
    pretender.answers["/v1/completions"] = answer(*lines, whole=whole)
    with LlamaCpp(server=pretender.url, streaming=False) as llm:
        with pytest.raises(ServerError):
            llm.invoke("x")
        with pytest.raises(ServerError):
            list(llm.stream("x"))
        with pytest.raises(ServerError):
            asyncio.run(llm.ainvoke("x"))
        pretender.answers["/v1/completions"] = WHOLE
        assert llm.invoke("x") == "ab"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("timeout", ServerError),
        ("engine_crashed", EngineCrashed),
        ("invalid_grammar", GrammarError),
        ("invalid_value", ValueError),
    ],
)
def test_an_error_in_the_midst_of_a_stream_is_one(
    pretender: Scripted, code: str, kind: type
) -> None:
    told = {"error": {"message": "that was it", "code": code}}
    pretender.answers["/v1/completions"] = answer(piece("a"), told)
    with LlamaCpp(server=pretender.url) as llm, pytest.raises(kind, match="that was it"):
        llm.invoke("x")


# -- busy servers ---------------------------------------------------------------------------------


def busy(times: int, status: int = 429, after: float = 0.05) -> Callable[[Handler], None]:
    """Refuse so many times, then answer."""
    left = [times]

    def say(handler: Handler) -> None:
        if not left[0]:
            WHOLE(handler)
            return
        left[0] -= 1
        body = {"error": {"message": "too many", "code": "queue_full"}}
        handler.say(status, body, retry_after=after)

    return say


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(pretender: Scripted, status: int) -> None:
    pretender.answers["/v1/completions"] = busy(3, status)
    with LlamaCpp(server=pretender.url) as llm:
        assert llm.invoke("x") == "ab"
    assert [path for path, _ in pretender.seen].count("/v1/completions") == 4


def test_patience_has_an_end(pretender: Scripted) -> None:
    pretender.answers["/v1/completions"] = busy(10**6, after=1000)
    with LlamaCpp(server=pretender.url) as llm:
        with pytest.raises(ServerError, match="too many") as caught:
            llm.invoke("x")
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        assert caught.value.retry_after == 1000


def test_what_says_no_time_is_not_asked_again(pretender: Scripted) -> None:
    def crashed(handler: Handler) -> None:
        handler.say(503, {"error": {"message": "the engine", "code": "engine_crashed"}})

    pretender.answers["/v1/completions"] = crashed
    with LlamaCpp(server=pretender.url) as llm, pytest.raises(EngineCrashed, match="the engine"):
        llm.invoke("x")
    assert [path for path, _ in pretender.seen].count("/v1/completions") == 1


def test_who_waits_can_leave(pretender: Scripted) -> None:
    pretender.answers["/v1/completions"] = busy(10**6, after=30)

    async def leave() -> None:
        task = asyncio.create_task(llm.ainvoke("x"))
        while not any(path == "/v1/completions" for path, _ in pretender.seen):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with LlamaCpp(server=pretender.url) as llm:
        began = time.monotonic()
        asyncio.run(leave())
        assert time.monotonic() - began < 25


# -- not a server of ours -------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_nobody_there() -> None:
    with pytest.raises(ServerError, match="No server answers at http://127"):
        LlamaCpp(server=f"http://127.0.0.1:{free_port()}")


def test_https_where_plain_http_is_spoken(scripted: Scripted) -> None:
    with pytest.raises(ServerError, match="begins with http://"):
        LlamaCpp(server=scripted.url.replace("http", "https"))


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (200, b"<html>hello</html>", "text/html", "no server of python -m helpers serve"),
        (200, {"data": []}, "application/json", "lists no models"),
        (200, {"data": [{"id": "gpt"}]}, "application/json", "langchain-openai"),
        (200, [1], "application/json", "lists no models"),
        (404, b"<html>nothing</html>", "text/html", "does not know the path"),
        (302, b"", "text/html", "login"),
        (500, b"<html>oh</html>", "text/html", "answered 500"),
        (500, {"error": {"message": "broken"}}, "application/json", "broken"),
    ],
)
def test_something_else_there(
    scripted: Scripted, status: int, body: Any, kind: str, said: str
) -> None:
    scripted.answers["/v1/models"] = lambda handler: handler.say(
        status, body, kind=kind, location="/hub/login"
    )
    with pytest.raises(ServerError, match=said):
        LlamaCpp(server=scripted.url)


def test_a_path_before_the_path(pretender: Scripted) -> None:
    for path, told in list(pretender.answers.items()):
        pretender.answers[f"/services/llm{path}"] = told
        del pretender.answers[path]
    pretender.answers["/services/llm/v1/completions"] = WHOLE
    for url in (f"{pretender.url}/services/llm", f"{pretender.url}/services/llm/v1/"):
        with LlamaCpp(server=url) as llm:
            assert llm.invoke("x") == "ab"


def test_a_header_that_is_none(pretender: Scripted) -> None:
    raw = header_bytes(default_model())
    cards = pretender.answers["/v1/models"]

    def sent(data: bytes, fingerprint: str | None = None) -> None:
        told = fingerprint or hashlib.sha256(data).hexdigest()
        meta = {"embeddings": False, "fingerprint": told, "load_report": REPORT}
        pretender.answers["/v1/models"] = lambda handler: handler.say(
            200, {"data": [{"id": "it", "meta": meta}]}
        )
        pretender.answers["/v1/models/it/header"] = lambda handler: handler.say(200, data)

    sent(raw + b"x", hashlib.sha256(raw).hexdigest().replace("a", "b"))
    with pytest.raises(ServerError, match="not the one that it names"):
        LlamaCpp(server=pretender.url)
    sent(b"")
    with pytest.raises(ModelFileError):
        LlamaCpp(server=pretender.url)
    for data in (raw[:1000], b"GGUF" + b"\xff" * 100, raw[:24] + b"\xff" * 8 + raw[32:]):
        sent(data)
        with pytest.raises(ModelFileError):
            LlamaCpp(server=pretender.url)
    sent(raw, "../../etc")
    with pytest.raises(ServerError, match="no fingerprint"):
        LlamaCpp(server=pretender.url)
    pretender.answers["/v1/models"] = cards
    sent(raw)
    LlamaCpp(server=pretender.url).close()


REPORT = {
    "model": "../../../escaped/..",
    "description": "",
    "n_ctx": 512,
    "n_batch": 1,
    "n_gpu_layers": 0,
    "n_layers": 1,
}


def test_a_header_says_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(header_bytes(default_model()))
    whole, found = inspect_model(default_model()), inspect_model(file, check=False)
    for name in ("n_params", "n_layers", "n_vocab", "chat_template", "tensors", "quantization"):
        assert getattr(found, name) == getattr(whole, name), name
    assert found.metadata["tokenizer.ggml.tokens"] == whole.metadata["tokenizer.ggml.tokens"]
    assert file.stat().st_size < default_model().stat().st_size / 10


# -- addresses and keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" http://a.example/ ", "http://a.example"),
        ("http://a.example/v1", "http://a.example"),
        ("https://a.example/services/llm/v1/", "https://a.example/services/llm"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_one_spelling_of_an_address(given: str, plain: str) -> None:
    assert Address(given).url == plain


@pytest.mark.parametrize(
    "given",
    [
        "",
        "127.0.0.1:8000",
        "ftp://a",
        "http://",
        "http://a:x",
        "http://a:99999999",
        "http://a?b",
        "http://a b",
        "file:///etc/passwd",
        "http://user:pass@host",
        "http://[::1",
        "http://ä.de",
    ],
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ValueError, match="server=") as caught:
        LlamaCpp(server=given)
    assert "pass@" not in str(caught.value).split("[type=")[0]


KEY = "sk-very-secret-7"


def test_the_environments_key_goes_to_its_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_KEY", KEY)
    assert address_of("http://a").key == SecretStr(KEY)
    monkeypatch.setenv("LLAMA_NOTEBOOKS_SERVER", "http://a/v1")
    assert address_of("http://a/").key == SecretStr(KEY)
    assert address_of("http://b").key is None
    assert address_of("http://b", SecretStr("other")).key == SecretStr("other")


def test_a_key_is_sent_and_shown_nowhere(
    pretender: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    pretender.answers["/v1/completions"] = WHOLE
    shown = []
    with ChatLlamaCpp(server=pretender.url, key=KEY) as chat:
        assert dict(pretender.seen)["/v1/models"]["authorization"] == f"Bearer {KEY}"
        chat.invoke("Hi")
        assert dict(pretender.seen)["/v1/completions"]["authorization"] == f"Bearer {KEY}"
        shown += [repr(chat), str(chat), repr(chat._identifying_params), repr(chat._engine.files)]
        shown += [repr(chat.model_dump()), chat.model_dump_json(), repr(vars(chat))]
        shown += [repr(pickle.dumps(chat)), repr(chat._engine._shared.key), str(chat.load_report)]
        for name in ("key", "server"):
            with pytest.raises(AttributeError) as caught:
                setattr(chat, name, f"http://{KEY}")
            shown += [str(caught.value)] if name == "key" else []
        copied = chat.model_copy(update={"temperature": 0.5})
        assert copied.invoke("Hi").content == "ab"
        copied.close()
        again = chat.model_copy(update={"key": "another"})
        assert again.invoke("Hi").content == "ab"
        assert pretender.seen[-1][1]["authorization"] == "Bearer another"
        again.close()
    for wrong in ({"temprature": 1}, {"temperature": "x"}, {"n_ctx": 7}, {"stop": 7}):
        with pytest.raises((TypeError, ValueError)) as refused:
            ChatLlamaCpp(server=pretender.url, key=KEY, **wrong)
        shown += [str(refused.value), repr(refused.value)]
    with pytest.raises(TypeError, match="key must be a text"):
        ChatLlamaCpp(server=pretender.url, key=7)
    pretender.answers["/v1/models"] = lambda handler: handler.say(
        401, {"error": {"message": "Who is this?", "code": "invalid_api_key"}}
    )
    with pytest.raises(ServerError, match=r"Who is this\?.*not one of its keys") as denied:
        ChatLlamaCpp(server=pretender.url, key=KEY)
    with pytest.raises(ServerError, match="LLAMA_NOTEBOOKS_KEY"):
        ChatLlamaCpp(server=pretender.url)
    shown += [str(denied.value), caplog.text]
    assert not [text for text in shown if KEY in text]


def test_a_pickle_takes_the_key_of_the_environment(
    pretender: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretender.answers["/v1/completions"] = WHOLE
    with LlamaCpp(server=pretender.url, key=KEY) as llm:
        raw = pickle.dumps(llm)
    monkeypatch.setenv("LLAMA_NOTEBOOKS_KEY", "sk-of-the-environment")
    with pickle.loads(raw) as found:
        assert found.invoke("x") == "ab"
        assert found.key is None
    assert pretender.seen[-1][1]["authorization"] == "Bearer sk-of-the-environment"


@pytest.mark.parametrize("wrong", ["", " ", "a b", "a\r\nHost: b", "schlüssel", "a\x00b"])
def test_what_is_no_key(scripted: Scripted, wrong: str) -> None:
    with pytest.raises(ValueError, match="cannot be a key") as caught:
        LlamaCpp(server=scripted.url, key=wrong)
    assert scripted.seen == []
    assert not wrong.strip() or wrong not in str(caught.value)


def test_a_key_from_a_line_of_a_file(pretender: Scripted) -> None:
    LlamaCpp(server=pretender.url, key=f"{KEY}\n").close()
    assert pretender.seen[0][1]["authorization"] == f"Bearer {KEY}"


def test_another_model_is_not_taken_for_the_one_before(pretender: Scripted) -> None:
    cards, header = (pretender.answers[path] for path in ("/v1/models", "/v1/models/it/header"))
    pretender.answers["/v1/completions"] = WHOLE
    llm = LlamaCpp(server=pretender.url)
    assert llm.invoke("x") == "ab"
    pretender.answers["/v1/completions"] = answer(piece("a"), whole=False)  # it goes down,
    with pytest.raises(ServerError, match="broke off"):
        llm.invoke("x")
    pretender.answers["/v1/completions"] = WHOLE
    assert llm.invoke("x") == "ab"  # and comes back as it was
    pretender.answers["/v1/completions"] = answer(piece("a"), whole=False)
    with pytest.raises(ServerError, match="broke off"):
        llm.invoke("x")
    pretender.answers["/v1/completions"] = WHOLE
    raw = header_bytes(default_model()) + b"\0" * 32
    meta = {"embeddings": False, "load_report": {**REPORT, "model": "other.gguf"}}
    meta["fingerprint"] = hashlib.sha256(raw).hexdigest()
    pretender.answers["/v1/models"] = lambda handler: handler.say(
        200, {"data": [{"id": "other", "meta": meta}]}
    )
    pretender.answers["/v1/models/other/header"] = lambda handler: handler.say(200, raw)
    for _ in range(3):
        with pytest.raises(ServerError, match="another model than before, other"):
            llm.invoke("x")
    with LlamaCpp(server=pretender.url) as anew:
        assert anew.invoke("x") == "ab"
        assert anew.load_report.model == "other.gguf"
    pretender.answers |= {"/v1/models": cards, "/v1/models/it/header": header}
    llm.close()


def test_whole_answers_have_one_form(pretender: Scripted) -> None:
    """A server that does not stream is another one: its answer is not taken for a stream."""
    pretender.answers["/v1/completions"] = lambda handler: handler.say(
        200, completion_to_json(MADE)
    )
    with LlamaCpp(server=pretender.url) as llm, pytest.raises(ServerError, match="stream"):
        llm.invoke("x")


def test_tokens_that_are_none(pretender: Scripted) -> None:
    with LlamaCpp(server=pretender.url) as llm:
        for told in ({}, {"tokens": 7}, {"tokens": [[1], [2]]}, {"tokens": [["a"]]}, [], "x"):
            pretender.answers["/tokenize"] = lambda handler, told=told: handler.say(200, told)
            with pytest.raises(HelpersError):
                llm.get_num_tokens("x")
