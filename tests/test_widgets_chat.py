"""The chat box: its conversation and its words without widgets, then as its user works it."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from helpers import (
    PLAIN_TEMPLATE,
    ChatBox,
    ChatLlamaCpp,
    ContextOverflowError,
    LlamaCpp,
    Timings,
    default_model,
    inspect_model,
)
from helpers.widgets.conversation import ROUNDS, Conversation, Turn
from helpers.widgets.transcript import answer_line, as_text, code_for, turn_parts
from tests.support import wait_for

LONG = "Count from one to one thousand, in words, and leave no number out."


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatLlamaCpp]:
    with ChatLlamaCpp(
        model_path=default_model(), n_gpu_layers=0, n_ctx=1024, temperature=0, max_tokens=24
    ) as made:
        yield made


@pytest.fixture
def box(chat: ChatLlamaCpp) -> ChatBox:
    return ChatBox(chat, system="Be brief.")


class Scripted(BaseChatModel):
    """Says what a script says: calls that a small model would not make of its own accord."""

    script: list[list[AIMessageChunk]]
    asked: list[list[BaseMessage]] = []
    given: list[dict[str, Any]] = []

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise AssertionError("the box streams, and asks for no whole answer")

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **given: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.asked.append(messages)
        self.given.append(given)
        for chunk in self.script[len(self.asked) - 1]:
            yield ChatGenerationChunk(message=chunk.model_copy())
            await asyncio.sleep(0.001)

    def bind_tools(self, tools: Any, *, tool_choice: Any = "auto", **_: Any) -> Any:
        return self.bind(tools=[one.name for one in tools], tool_choice=tool_choice)


def words(*parts: str) -> list[AIMessageChunk]:
    return [AIMessageChunk(part) for part in parts]


def call(name: str, *arguments: str, id_: str = "1") -> list[AIMessageChunk]:
    """A call whose arguments come in pieces."""
    heads: list[Any] = [(name, id_), *[(None, None)] * (len(arguments) - 1)]
    return [
        AIMessageChunk("", tool_call_chunks=[tool_call_chunk(name=n, args=text, id=i, index=0)])
        for (n, i), text in zip(heads, arguments, strict=True)
    ]


def weather(city: str) -> str:
    """The weather of a city."""
    if city == "Atlantis":
        raise ValueError(f"{city} is under water")
    if city == "Exit":
        raise SystemExit(3)
    return f"{city}: 21 °C <b>sunny</b>"


async def river(city: str) -> list[str]:
    """The rivers of a city."""
    await asyncio.sleep(0.001)
    return [f"The river of {city}"]


# --- words ---------------------------------------------------------------------------------------


def usage(prompt: int, answer: int, cached: int) -> Any:
    details = {"cache_read": cached}
    counts = {"input_tokens": prompt, "output_tokens": answer, "total_tokens": prompt + answer}
    return {**counts, "input_token_details": details}


def test_the_line_under_an_answer_has_the_figures_of_that_call() -> None:
    timings = Timings(eval_ms=500.0, eval_tokens=10)
    about = {"timings": timings, "finish_reason": "length"}
    message = AIMessage("a", response_metadata=about, usage_metadata=usage(1234, 1, 1200))
    assert answer_line(message) == (
        "1 token · 20.0 tokens/s · prompt of 1,234 tokens, 1,200 cached · "
        "✗ cut off by max_tokens or the context"
    )
    assert answer_line(AIMessage("a")) == ""


def test_all_that_others_wrote_is_shown_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    script = [
        [
            AIMessageChunk("", additional_kwargs={"reasoning_content": evil}),
            *call(evil, '{"a": "' + evil, '"}'),
        ],
        words(evil, "\ud800"),
    ]
    talk = Conversation(Scripted(script=script), [weather])
    talk.ask(evil)
    failed = Turn(evil, state="failed", error=RuntimeError(evil))
    parts = [*turn_parts(talk.turns[0]), *turn_parts(failed)]
    shown = "".join(parts)
    assert "<img" not in shown and shown.count(html.escape(evil)) >= 6
    shown.encode("utf-8")  # can go to a browser


def test_long_texts_are_cut_for_the_browser_alone() -> None:
    parts = turn_parts(Turn("é" * 130_000, state="done"))
    assert parts[0].count("é") == 100_000 and "30,000 more characters" in parts[0]


def test_parts_of_a_growing_turn_stay_as_they_are_once_the_next_has_come() -> None:
    thought = [AIMessageChunk("", additional_kwargs={"reasoning_content": "so "})] * 300
    script = [[*thought, *call("weather", '{"city":', '"Seoul"}')], words(*["ha "] * 300)]
    talk, seen = Conversation(Scripted(script=script), [weather]), []
    talk.ask("Hi", show=lambda turn: seen.append(turn_parts(turn)))
    assert 3 <= len(seen) < 300, "many pieces are shown at once"
    assert "so" in "".join(seen[0]) or len(seen[0]) == 2
    last = seen[-1]
    assert "Reasoning" in last[1] and "Tool weather: ✓ done" in last[2] and len(last) == 4
    for before in seen:
        assert before[: len(before) - 2] == last[: len(before) - 2]
    assert last[-1].count("ha ") == 300 and 'aria-busy="false"' in last[-1]


# --- code ----------------------------------------------------------------------------------------


def test_the_code_has_the_same_conversation_again(
    box: ChatBox, chat: ChatLlamaCpp, capsys: pytest.CaptureFixture[str]
) -> None:
    box.ask('Say "yes".')
    box.system.value = "Answer in French."
    box.ask("And\nno?")
    assert "default_model()" in box.code and str(default_model()) not in box.code
    made: dict[str, Any] = {}
    exec(box.code, made)
    texts = [message.text for message in box.messages[1:]]
    again = [one[1] if isinstance(one, tuple) else one.text for one in made["messages"]]
    assert again == texts
    assert capsys.readouterr().out == f"{texts[1]}\n{texts[3]}\n"
    assert made["chat"].n_ctx == chat.n_ctx and made["chat"].max_tokens == chat.max_tokens


def test_the_code_names_the_path_and_the_tools_that_were_given(
    chat: ChatLlamaCpp, tmp_path: Path
) -> None:
    link = tmp_path / "mine.gguf"
    link.hardlink_to(Path(default_model()))
    with ChatLlamaCpp(model_path=link, n_gpu_layers=0, n_ctx=256, callbacks=[]) as other:
        code = code_for(Conversation(other, [weather]), "Hi")
    assert f"model_path={str(link)!r}" in code and "default_model" not in code
    assert "tools = [tool(weather)]" in code and "[('system'" not in code
    assert "system = [(\"system\", 'Hi')]" in code
    compile(code, "code", "exec")


def test_the_code_names_a_template_in_short_where_it_is_known() -> None:
    own = inspect_model(default_model()).chat_template
    assert own is not None
    given = {own: "", PLAIN_TEMPLATE: "chat_template=PLAIN_TEMPLATE", f"{own} ": "im_start"}
    for template, named in given.items():
        with ChatLlamaCpp(
            model_path=default_model(), n_gpu_layers=0, n_ctx=256, chat_template=template
        ) as chat:
            code = code_for(Conversation(chat))
        made: dict[str, Any] = {}
        exec(code, made)
        with made["chat"] as again:
            assert again.format_prompt("Hi!") == chat.format_prompt("Hi!")
        assert named in code and ("chat_template" in code) == bool(named)


# --- conversation --------------------------------------------------------------------------------


def test_an_answer_is_the_model_s_and_the_next_turn_costs_what_is_new(chat: ChatLlamaCpp) -> None:
    talk = Conversation(chat)
    first = talk.ask("Name a river.", system="Be brief.")
    second = talk.ask("And one more?", system="Be brief.")
    messages = talk.messages("Be brief.")
    assert [one.type for one in messages] == ["system", "human", "ai", "human", "ai"]
    assert first.text == chat.invoke(messages[:2]).text and second.text
    assert second.usage_metadata is not None
    cached = second.usage_metadata["input_token_details"]["cache_read"]
    assert cached >= 20 and f"{cached} cached" in answer_line(second)


def test_stop_keeps_what_there_is_and_the_conversation_goes_on(chat: ChatLlamaCpp) -> None:
    talk, stop = Conversation(chat.model_copy(update={"max_tokens": 400})), threading.Event()

    def stop_after_some(turn: Turn) -> None:
        if len(turn.steps) and len(turn.steps[-1].text) > 10:
            stop.set()

    answer = talk.ask(LONG, show=stop_after_some, stop=stop)
    assert talk.turns[0].state == "stopped" and answer_line(answer).endswith("✗ stopped here")
    whole = chat.invoke(talk.messages("")[:1], max_tokens=len(answer.text)).text
    assert len(answer.text) > 10 and whole.startswith(answer.text)
    assert talk.ask("Thanks.").text and len(talk.messages("")) == 4


def test_a_stop_before_the_first_token_ends_the_reading_of_the_prompt(chat: ChatLlamaCpp) -> None:
    talk, stop = Conversation(chat), threading.Event()
    stop.set()
    answer = talk.ask("word " * 900, stop=stop)
    assert answer.text == "" and talk.turns[0].state == "stopped"
    assert [one.type for one in talk.messages("")] == ["human", "ai"]


def test_a_failed_turn_is_no_part_of_the_conversation(chat: ChatLlamaCpp) -> None:
    talk = Conversation(chat)
    talk.ask("Hi!")
    before = talk.messages("")
    with pytest.raises(ContextOverflowError):
        talk.ask("word " * 3000)
    assert talk.messages("") == before and len(talk.turns) == 2
    assert "n_ctx=4096" in as_text(talk.turns) and "new chat" in turn_parts(talk.turns[1])[-1]
    assert "word" not in code_for(talk)


def test_it_can_be_asked_where_an_event_loop_runs(chat: ChatLlamaCpp) -> None:
    async def inside() -> AIMessage:
        return Conversation(chat).ask("Hi!")

    assert asyncio.run(inside()).text


def test_what_is_no_chat_model_or_no_tool_is_refused(chat: ChatLlamaCpp) -> None:
    llm = LlamaCpp(model_path=default_model(), n_gpu_layers=0, n_ctx=1024)
    with llm, pytest.raises(TypeError, match="ChatLlamaCpp"):
        ChatBox(llm)
    with pytest.raises(TypeError, match="'weather', which cannot be called"):
        ChatBox(chat, tools=["weather"])


# --- tools ---------------------------------------------------------------------------------------


def test_calls_are_made_and_their_results_fed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [
        [*words("Let me see."), *call("weather", '{"city": "Se', 'oul"}')],
        call("weather", '{"city": "Atlantis"}', id_="2"),
        call("wether", "{}", id_="3"),
        call("weather", '{"town": 1}', id_="4"),
        call("weather", '{"city": "Exit"}', id_="5"),
        call("river", '{"city": "서울"}', id_="6"),
        words("It is sunny."),
    ]
    monkeypatch.setattr("helpers.widgets.conversation.ROUNDS", 6)
    model = Scripted(script=script)
    talk = Conversation(model, [weather, river])
    assert talk.ask("How is it?", temperature=0.5).text == "It is sunny."
    results = [one for one in talk.turns[0].steps if isinstance(one, ToolMessage)]
    assert [one.status for one in results] == ["success", *["error"] * 4, "success"]
    for result, part in zip(
        results,
        ["21 °C", "under water", "There are: weather", "city", "SystemExit(3)", "서울"],
        strict=True,
    ):
        assert part in result.text
    assert model.asked[-1] == talk.messages("")[:-1], "the model has seen all of it"
    assert {given["temperature"] for given in model.given} == {0.5}
    shown = "".join(turn_parts(talk.turns[0]))
    assert shown.count("✓ done") == 2 and shown.count("✗ failed") == 4
    assert "Let me see." in shown and "&lt;b&gt;sunny" in shown


def test_after_five_rounds_the_model_has_to_answer() -> None:
    again = [call("weather", '{"city": "Seoul"}', id_=str(n)) for n in range(ROUNDS + 1)]
    model = Scripted(script=again)
    talk = Conversation(model, [weather])
    answer = talk.ask("How is it?")
    assert [given["tool_choice"] for given in model.given] == ["auto"] * ROUNDS + ["none"]
    assert len(talk.turns[0].results) == ROUNDS
    assert answer.tool_calls == [] and "5 rounds" in str(answer.invalid_tool_calls)
    assert "✗ not made" in turn_parts(talk.turns[0])[-1]


def test_a_tool_that_does_not_end_can_be_stopped() -> None:
    begun, end, stop = threading.Event(), threading.Event(), threading.Event()

    def wait() -> str:
        """Wait."""
        begun.set()
        stop.set()
        end.wait(60)
        return "late"

    model = Scripted(script=[call("wait", "{}"), words("Go on.")])
    talk = Conversation(model, [wait])
    assert talk.ask("Wait.", stop=stop).text == ""
    assert begun.is_set() and not end.is_set()
    end.set()
    assert talk.ask("Well?").text == "Go on."
    kinds = [one.type for one in model.asked[-1]]
    assert kinds == ["human", "ai", "tool", "ai", "human"]
    assert model.asked[-1][2].text == "stopped"


def test_a_stop_within_a_call_keeps_its_text() -> None:
    stop = threading.Event()
    model = Scripted(script=[[*call("weather", '{"city":', *['"x', *["y"] * 3000])]])
    talk = Conversation(model, [weather])
    answer = talk.ask("Hi", show=lambda turn: turn.steps and stop.set(), stop=stop)
    assert answer.tool_calls == []
    assert answer.invalid_tool_calls[0]["args"].startswith('{"city":')
    assert "{&quot;city&quot;:" in "".join(turn_parts(talk.turns[0]))


def test_tools_with_the_model(chat: ChatLlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    class Eager(ChatLlamaCpp):
        """Has to call, where it may."""

        def bind_tools(self, tools: Any, *, tool_choice: Any = "any", **given: Any) -> Any:
            given["parallel_tool_calls"] = False
            return super().bind_tools(tools, tool_choice=tool_choice, **given)

    monkeypatch.setattr("helpers.widgets.conversation.ROUNDS", 2)
    fields = ("model_path", "n_gpu_layers", "n_ctx", "temperature")
    with Eager(**{name: getattr(chat, name) for name in fields}) as eager:
        talk = Conversation(eager, [weather])
        answer = talk.ask("How is the weather in Seoul?")
    first, second, last = talk.turns[0].answers
    assert last is answer and not answer.tool_calls
    assert all(one.tool_calls[0]["name"] == "weather" for one in (first, second))
    assert "21 °C" in talk.turns[0].results[first.tool_calls[0]["id"]].text
    assert second.usage_metadata is not None and first.usage_metadata is not None
    known = second.usage_metadata["input_token_details"]["cache_read"]
    assert known >= first.usage_metadata["input_tokens"]


# --- the widget ----------------------------------------------------------------------------------


def log_of(box: ChatBox) -> str:
    turns = [getattr(turn, "children", ()) for turn in box._turns.children]
    return "\n".join(part.value for parts in turns for part in parts)


def enter(box: ChatBox, text: str) -> None:
    """Type into the field and press Enter, as the browser tells of it."""
    box.line.value = text
    box.line._handle_custom_msg({"event": "submit"}, [])


def test_enter_sends_and_the_answer_grows(chat: ChatLlamaCpp) -> None:
    box = ChatBox(chat, system="Be brief.")
    assert "Nothing has been said yet." in str(box) and box.stop_button.disabled
    sizes: list[int] = []
    enter(box, "Tell me <i>all</i> about rivers.")
    assert wait_for(lambda: sizes.append(len(log_of(box))) or not box._work.in_progress)
    box.wait(60)
    assert box.failure is None and box.line.value == ""
    assert [one.type for one in box.messages] == ["system", "human", "ai"]
    assert len(set(sizes)) > 3, "it was seen while it grew"
    assert "&lt;i&gt;all&lt;/i&gt;" in log_of(box)
    assert html.escape(answer_line(box.messages[-1])) in log_of(box)
    assert box.messages[-1].text in str(box)
    assert box._repr_mimebundle_()["text/plain"] == str(box)


@pytest.mark.parametrize("how", ["button", "empty field"])
def test_stop(chat: ChatLlamaCpp, how: str) -> None:
    box = ChatBox(chat.model_copy(update={"max_tokens": 400}))
    enter(box, LONG)
    assert wait_for(lambda: box._talk.turns and box._talk.turns[0].steps)
    assert not box.stop_button.disabled and box.send_button.disabled and box.new_button.disabled
    enter(box, "another one")
    assert "still writing" in box.status.value and box.line.value == "another one"
    assert box.ask("third") is None
    box.new_chat()
    assert len(box._talk.turns) == 1
    if how == "button":
        box.stop_button.click()
    else:
        enter(box, "")
    box.wait(60)
    assert "✗ stopped here" in log_of(box) and len(box.messages) == 2
    assert box.stop_button.disabled and not box.send_button.disabled
    assert box.ask("Thanks.") is not None


def test_what_failed_is_shown_and_comes_back(box: ChatBox) -> None:
    box.ask("Hi!")
    text = "word " * 3000
    enter(box, text)
    box.wait(60)
    assert isinstance(box.failure, ContextOverflowError) and box.line.value == text
    assert html.escape(str(box.failure)) in log_of(box) and 'role="alert"' in log_of(box)
    assert "stands above" in box.status.value and len(box.messages) == 3
    assert box.ask("Shorter.") is not None and box.failure is None and len(box.messages) == 5
    assert box.ask(" ") is None and "Write a message" in box.status.value
    with pytest.raises(TypeError, match="text must be a text"):
        box.ask(5)


def test_settings_count_from_the_next_message_and_a_new_chat_keeps_them() -> None:
    model = Scripted(script=[words("a"), words("b"), words("c")])
    box = ChatBox(model, system="One.")
    box.ask("1")
    box.system.value, box.temperature.value = "Two.", 1.5
    box.ask("2")
    assert [asked[0].text for asked in model.asked] == ["One.", "Two."]
    assert [given["temperature"] for given in model.given] == [0.8, 1.5]
    code = box.code
    assert code.index("One.") < code.index("ask('1', temperature=0.8)") < code.index("Two.")
    box.new_button.click()
    assert [one.text for one in box.messages] == ["Two."] and "ask('1'" not in box.code
    box.ask("3")
    assert [one.text for one in model.asked[-1]] == ["Two.", "3"]


def test_several_lines_and_the_code_are_shown_when_asked_for(box: ChatBox) -> None:
    box.line.value = "one"
    box.lines_button.value = True
    assert box.page.value == "one" and box.line.layout.display == "none"
    box.page.value = "one\ntwo"
    box.send_button.click()
    box.wait(60)
    assert box.messages[1].text == "one\ntwo" and box.page.value == ""
    assert box._code.layout.display == "none"
    box.code_button.click()
    assert box._code.value == box.code and box._code.layout.display == ""
    assert "'one\\ntwo'" in box.code


def test_an_interrupt_ends_the_answer_and_reaches_the_caller(
    box: ChatBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("concurrent.futures.Future.result", interrupted)
        box.ask(LONG)
    assert box.send_button.disabled is False and box._talk.turns[0].state == "stopped"
    assert box.ask("Hi!") is not None
