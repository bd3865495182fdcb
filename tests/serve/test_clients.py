"""The clients that people have: what they ask, and what they make of the answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from helpers import ChatLlamaCpp, LlamaCpp, LlamaCppEmbeddings, default_model
from tests.serve.conftest import Running

QUESTION: list[Any] = [{"role": "user", "content": "Which country is Paris in?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
FORCED: Any = {"type": "function", "function": {"name": "add"}}


class Place(BaseModel):
    city: str
    big: bool


# -- openai ---------------------------------------------------------------------------------------


def test_models_and_what_is_told_of_them(client: openai.OpenAI, server: Running) -> None:
    (model,) = client.models.list().data
    assert model.id == server.model
    meta = model.model_extra["meta"]  # type: ignore[index]
    assert (meta["n_ctx"], meta["n_layers"], meta["embeddings"]) == (1024, 30, False)
    assert meta["load_report"]["isolated"]
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError, match=server.model):
        client.models.retrieve("gpt-5")


def test_text_is_what_the_engine_writes(client: openai.OpenAI, server: Running) -> None:
    answer = client.completions.create(
        model=server.model, prompt="1, 2, 3,", max_tokens=8, temperature=0
    )
    llm = LlamaCpp(model_path=default_model(), n_ctx=1024, temperature=0, max_tokens=8)
    assert answer.choices[0].text == llm.invoke("1, 2, 3,")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 8
    assert answer.model_extra is not None
    assert answer.model_extra["timings"]["generated_tokens"] == 8
    pieces = client.completions.create(
        model=server.model, prompt="1, 2, 3,", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text
    llm.close()


def test_several_prompts_and_answers(client: openai.OpenAI, server: Running) -> None:
    def ask() -> list[str]:
        answer = client.completions.create(
            model=server.model, prompt=["One", "Two"], n=2, max_tokens=5, seed=7
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.usage is not None and answer.usage.prompt_tokens == 2
        return [choice.text for choice in answer.choices]

    texts = ask()
    assert texts == ask()  # the seed says all
    assert texts[0] != texts[1]  # and does not make one answer of two


def test_chat_whole_and_in_pieces(client: openai.OpenAI, server: Running) -> None:
    asked = {"model": server.model, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    said = whole.choices[0].message.content
    with ChatLlamaCpp(model_path=default_model(), n_ctx=1024, temperature=0, max_tokens=24) as chat:
        assert said == chat.invoke(QUESTION).content
    pieces = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == said
    ends = [piece.choices[0].finish_reason for piece in pieces if piece.choices]
    assert ends[:-1] == [None] * (len(ends) - 1) and ends[-1] == whole.choices[0].finish_reason
    counts = [piece.usage for piece in pieces if piece.usage is not None]
    assert len(counts) == 1 and whole.usage is not None
    assert counts[0].completion_tokens == whole.usage.completion_tokens
    assert counts[0].prompt_tokens_details is not None
    assert counts[0].prompt_tokens_details.cached_tokens  # type: ignore[truthy-bool]


def test_tools_in_pieces_are_those_of_a_whole(client: openai.OpenAI, server: Running) -> None:
    asked: Any = {
        "model": server.model,
        "messages": [{"role": "user", "content": "What is 2 plus 3?"}],
        "tools": [TOOL],
        "tool_choice": FORCED,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.tool_calls
    (call,) = whole.message.tool_calls
    assert call.type == "function" and call.function.name == "add" and call.id
    assert set(json.loads(call.function.arguments)) == {"a", "b"}
    names, arguments, ends = [], "", []
    for piece in client.chat.completions.create(**asked, stream=True):
        ends.append(piece.choices[0].finish_reason)
        for part in piece.choices[0].delta.tool_calls or ():
            assert part.function is not None and part.index == 0
            if part.id:
                names.append(part.function.name)
            arguments += part.function.arguments or ""
    assert (names, arguments, ends[-1]) == (["add"], call.function.arguments, "tool_calls")
    told = [
        *asked["messages"],
        whole.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "5"},
    ]
    after = client.chat.completions.create(model=server.model, messages=told, max_tokens=8)
    assert after.choices[0].message.content is not None


def test_answers_keep_to_a_schema(client: openai.OpenAI, server: Running) -> None:
    parsed = client.chat.completions.parse(
        model=server.model, messages=QUESTION, response_format=Place, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Place)
    answer = client.chat.completions.create(
        model=server.model,
        messages=QUESTION,
        response_format={"type": "json_object"},
        max_tokens=200,
        temperature=0,
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    grammar = client.chat.completions.create(
        model=server.model, messages=QUESTION, extra_body={"grammar": 'root ::= "yes" | "no"'}
    )
    assert grammar.choices[0].message.content in ("yes", "no")


def test_logprobs_of_a_chat(client: openai.OpenAI, server: Running) -> None:
    asked: Any = {"model": server.model, "messages": QUESTION, "max_tokens": 4, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    assert whole.choices[0].logprobs is not None
    tokens = whole.choices[0].logprobs.content or []
    assert "".join(one.token for one in tokens) == whole.choices[0].message.content
    assert all(len(one.top_logprobs) == 3 and one.logprob <= 0 for one in tokens)
    pieces = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True)
    streamed = [
        one.token
        for piece in pieces
        if piece.choices[0].logprobs is not None
        for one in piece.choices[0].logprobs.content or ()
    ]
    assert streamed == [one.token for one in tokens]


def test_vectors_are_those_of_the_model(client: openai.OpenAI, server: Running) -> None:
    texts = ["Where is the river?", "A cat."]
    as_base64 = client.embeddings.create(model=server.model, input=texts)  # its default
    plain = client.embeddings.create(model=server.model, input=texts, encoding_format="float")
    with LlamaCppEmbeddings(model_path=default_model(), show_progress=False) as model:
        own = np.array(model.embed_documents(texts))
    for answer in (as_base64, plain):
        found = np.array([one.embedding for one in answer.data])
        assert np.allclose(found, own, atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="576"):
        client.embeddings.create(model=server.model, input="x", dimensions=8)


async def test_asynchronously_and_side_by_side(server: Running) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=server.keys["learner"], max_retries=0
    ) as client:

        async def ask(number: int) -> str:
            stream = await client.completions.create(
                model=server.model,
                prompt=f"{number}, {number + 1},",
                max_tokens=12,
                temperature=0,
                stream=True,
            )
            return "".join([piece.choices[0].text async for piece in stream])

        together = await asyncio.gather(*map(ask, range(3)))
        assert list(together) == [await ask(number) for number in range(3)]


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temperature"),
        ({"temperature": -1}, openai.BadRequestError, "temperature=-1"),
        ({"max_tokens": 5000}, openai.BadRequestError, "1024"),
        ({"model": "gpt-5"}, openai.NotFoundError, "gpt-5"),
        ({"extra_body": {"grammar": "root ::= ("}}, openai.BadRequestError, "line 1"),
        ({"prompt": "word " * 2000}, openai.BadRequestError, "context"),
        ({"n": 50}, openai.BadRequestError, "50 answers"),
        ({"prompt": [10**6]}, openai.BadRequestError, "Token 1000000"),
    ],
)
def test_errors_are_the_clients_own_classes(
    client: openai.OpenAI,
    server: Running,
    given: dict[str, Any],
    kind: type[openai.APIStatusError],
    told: str,
) -> None:
    with pytest.raises(kind) as caught:
        client.completions.create(**{"model": server.model, "prompt": "Hi", **given})
    assert told in caught.value.message
    assert caught.value.code


def test_a_long_prompt_says_by_how_much(client: openai.OpenAI, server: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=server.model, prompt="word " * 2000, stream=True)
    assert caught.value.code == "context_length_exceeded"
    body: Any = caught.value.body
    assert body["n_ctx"] == 1024 and body["n_prompt_tokens"] > 2000 - 10


# -- langchain-openai -----------------------------------------------------------------------------


@pytest.fixture
def chat(server: Running) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key=SecretStr(server.keys["learner"]),
        model=server.model,
        temperature=0,
        max_completion_tokens=60,
        max_retries=0,
    )


def test_langchain_streams_and_counts_once(chat: ChatOpenAI) -> None:
    whole = chat.invoke("Which country is Paris in?")
    chunks = list(chat.stream("Which country is Paris in?", stream_usage=True))
    merged = chunks[0]
    for chunk in chunks[1:]:
        merged += chunk
    assert isinstance(merged, AIMessageChunk)
    assert merged.content == whole.content and whole.usage_metadata is not None
    assert merged.usage_metadata is not None
    assert merged.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


async def test_langchain_calls_tools_and_gives_objects(chat: ChatOpenAI) -> None:
    called = await chat.bind_tools([TOOL], tool_choice="add").ainvoke(
        [HumanMessage("What is 2 plus 3?")]
    )
    assert [call["name"] for call in called.tool_calls] == ["add"]  # type: ignore[attr-defined]
    place = chat.with_structured_output(Place, method="json_schema").invoke("Describe Paris.")
    assert isinstance(place, Place)
