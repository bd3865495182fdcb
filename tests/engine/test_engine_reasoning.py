"""Replies under grammars of tools, budgets of reasoning, and control tokens that are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import validate

from helpers.chat.format import HERMES, ChatFormat, Reasoning
from helpers.chat.grammar import reply_grammar
from helpers.chat.reader import ReplyReader, gather, read_reply
from helpers.engine import Completion, Engine, ReasoningBudget, Request

PLAIN = ChatFormat(HERMES)
THINKING = ChatFormat(HERMES, reasoning=Reasoning("<think>", "</think>"))
TOOLS: dict[str, Any] = {
    "magic_function": {
        "type": "object",
        "properties": {"input": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["input"],
        "additionalProperties": False,
    },
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"enum": ["celsius", "kelvin"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
QUESTIONS = [
    ("magic_function", "What is the value of magic_function(3)? Use the tool."),
    ("get_weather", "What is the weather in Seoul, in celsius?"),
    ("get_weather", "서울 날씨는 어때요?"),
    ("any", "Use a tool, please."),
    ("any", "Tell me about the weather in Oslo in kelvin."),
]
STORY = "What is the capital of France? Tell me about it."


def chat(question: str, system: str = "You are helpful.", begun: str = "") -> str:
    turns = [("system", system), ("user", question)]
    text = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
    return f"{text}<|im_start|>assistant\n{begun}"


def tool_text() -> str:
    listed = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in TOOLS.items()
    ]
    lines = "\n".join(map(json.dumps, listed))
    return f"You may call functions. <tools>\n{lines}\n</tools>"


def greedy(prompt: str, **changes: Any) -> Request:
    given = {"prompt": prompt, "temperature": 0.0, "max_tokens": 80, "repeat_penalty": 1.0}
    return Request(**{**given, **changes})


@pytest.fixture(scope="module", params=["here", "isolated"])
def either(request: pytest.FixtureRequest, engine: Engine, isolated: Engine) -> Iterator[Engine]:
    yield engine if request.param == "here" else isolated


@pytest.mark.parametrize("question", QUESTIONS, ids=range(5))
def test_a_forced_call_has_valid_arguments(either: Engine, question: tuple[str, str]) -> None:
    choice, text = question
    grammar = reply_grammar(PLAIN, TOOLS, choice=choice, parallel=False)
    done = either.generate(greedy(chat(text, tool_text()), grammar=grammar))
    assert done.finish_reason == "stop"
    reply = read_reply(PLAIN, TOOLS, done.text)
    assert not reply.faults and not reply.content
    (call,) = reply.calls
    assert choice in ("any", call.name)
    validate(json.loads(call.arguments), TOOLS[call.name])
    assert grammar is not None and not grammar.problems(done.text)


def test_prose_under_the_grammar_of_calls_is_the_model_s_own(engine: Engine) -> None:
    request = greedy(chat(STORY), max_tokens=60)
    free = engine.generate(request)
    held = engine.generate(replace(request, grammar=reply_grammar(PLAIN, TOOLS)))
    assert held.text == free.text
    assert held.generated_tokens == free.generated_tokens


def test_what_begins_as_a_call_is_held_to_its_end(engine: Engine) -> None:
    # A history of calls of another tool, in another form: the model begins its own like them.
    wrong = '<tool_call>\n{"name": "fetch", "args": {"q": "Rome"}}\n</tool_call>'
    begun = f"{wrong}<|im_end|>\n<|im_start|>user\nAnd in Oslo?<|im_end|>\n<|im_start|>assistant\n"
    request = greedy(chat("Weather in Rome?", tool_text(), begun=begun * 3), max_tokens=120)
    free = read_reply(PLAIN, TOOLS, engine.generate(request).text)
    assert not free.calls and "no tool 'fetch'" in free.faults[0].error
    grammar = reply_grammar(PLAIN, TOOLS, parallel=False)
    assert grammar is not None
    held = engine.generate(replace(request, grammar=grammar))
    assert grammar.matches(held.text), grammar.explain(held.text)
    (call,) = read_reply(PLAIN, TOOLS, held.text).calls
    validate(json.loads(call.arguments), TOOLS[call.name])


@pytest.mark.parametrize("tokens", [0, 1, 12])
def test_a_budget_ends_open_reasoning(either: Engine, tokens: int) -> None:
    budget = ReasoningBudget("<think>", "\n</think>\n\n", tokens, open=True)
    done = either.generate(greedy(chat(STORY, begun="<think>\n"), reasoning=budget, max_tokens=40))
    before, mark, after = done.text.partition("</think>")
    assert mark and after.startswith("\n\n") and after.strip()
    assert len(either.tokenize(before.rstrip())) <= tokens + 1
    free = either.generate(greedy(chat(STORY, begun="<think>\n"), max_tokens=max(tokens, 1)))
    assert tokens == 0 or before.rstrip() == free.text.rstrip()


def test_a_budget_holds_under_a_grammar_and_a_stream(either: Engine) -> None:
    grammar = reply_grammar(THINKING, TOOLS, choice="get_weather", parallel=False, thinking=True)
    request = greedy(
        chat("Weather in Rome, in kelvin?", tool_text(), begun="<think>\n"),
        grammar=grammar,
        reasoning=ReasoningBudget("<think>", "</think>", 6, open=True),
    )
    reader = ReplyReader(THINKING, TOOLS, thinking=True)
    events = []
    for item in either.stream(request):
        if isinstance(item, Completion):
            events += reader.finish(cut=item.finish_reason == "length")
            assert item.finish_reason == "stop"
        else:
            events += reader.feed(item.text)
    reply = gather(events)
    assert reply.thoughts and [call.name for call in reply.calls] == ["get_weather"]
    validate(json.loads(reply.calls[0].arguments), TOOLS["get_weather"])


def test_a_budget_counts_what_the_model_begins_itself(engine: Engine) -> None:
    budget = ReasoningBudget("Once", "</think>", 3)
    done = engine.generate(greedy("1 2 3 4", reasoning=budget, max_tokens=20))
    assert "</think>" not in done.text
    first = done.text.split()[0]
    budget = ReasoningBudget(first, "</think>", 3)
    done = engine.generate(greedy("1 2 3 4", reasoning=budget, max_tokens=20))
    before, mark, _ = done.text.partition("</think>")
    assert mark and len(engine.tokenize(before)) <= 3 + len(engine.tokenize(first)) + 1


def test_a_budget_has_log_probabilities_of_all_tokens(engine: Engine) -> None:
    budget = ReasoningBudget("<think>", "</think>", 4, open=True)
    request = greedy(chat(STORY, begun="<think>\n"), reasoning=budget, max_tokens=16)
    done = engine.generate(replace(request, logprobs=2))
    assert done.text == engine.generate(request).text
    assert done.logprobs is not None
    assert len(done.logprobs["tokens"]) == done.generated_tokens
    assert "".join(done.logprobs["tokens"]) == done.text


def test_budgets_differ_side_by_side(engine: Engine) -> None:
    requests = [
        greedy(
            chat(STORY, begun="<think>\n"),
            reasoning=ReasoningBudget("<think>", "</think>", tokens, open=True),
            max_tokens=24,
        )
        for tokens in (0, 3, 9)
    ]
    alone = [engine.generate(request).text for request in requests]
    assert [done.text for done in engine.generate_many(requests)] == alone
    assert len({text.index("</think>") for text in alone}) == 3


def test_control_tokens_are_shown_where_asked_for(either: Engine) -> None:
    (token,) = either.tokenize("<file_sep>")
    request = greedy("Hi", logit_bias=((token, 1000.0),), max_tokens=2)
    assert either.generate(request).text == ""
    shown = replace(request, shown_tokens=("a <file_sep> b", "<nothing>"))
    assert either.generate(shown).text == "<file_sep><file_sep>"


@pytest.mark.parametrize(
    ("field", "value"),
    [("end", " "), ("tokens", -1), ("open", "yes"), ("begin", None)],
)
def test_a_budget_is_checked(field: str, value: object) -> None:
    given: dict[str, Any] = {"begin": "<think>", "end": "</think>", "tokens": 3, field: value}
    with pytest.raises((ValueError, TypeError), match=field):
        ReasoningBudget(**given)
    with pytest.raises(TypeError, match="ReasoningBudget"):
        Request(prompt="x", reasoning=given)  # type: ignore[arg-type]
