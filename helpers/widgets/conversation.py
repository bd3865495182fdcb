"""What `ChatBox` does, without a widget: turns, their streams, and the loop that calls tools."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.tools import BaseTool, tool

ROUNDS = 5
"""How often the model may call tools before it has to answer."""
_TICK_S = 1 / 15
"""Between two pictures of a growing answer, and the longest that a stop is not noticed."""

Show = Callable[["Turn"], object]


@dataclass
class Turn:
    """What the user said, and all that came of it.

    Attributes:
        question: What the user said.
        system: The system prompt then.
        temperature: The temperature then.
        steps: Messages of the model, and results of tools, in their order.
        state: "failed" turns are not a part of the conversation.
        error: What ended a failed turn.
    """

    question: str
    system: str = ""
    temperature: float = 0.0
    steps: list[BaseMessage] = field(default_factory=list)
    state: Literal["running", "done", "stopped", "failed"] = "running"
    error: BaseException | None = None

    @property
    def answers(self) -> list[AIMessage]:
        """The model's messages."""
        return [one for one in self.steps if isinstance(one, AIMessage)]

    @property
    def results(self) -> dict[str, ToolMessage]:
        """Results of tools by the ids of their calls."""
        return {one.tool_call_id: one for one in self.steps if isinstance(one, ToolMessage)}


class Conversation:
    """A chat that remembers what was said, and calls the tools that the model asks for.

    Args:
        chat: The model.
        tools: Functions with a docstring, or LangChain tools, that the model may call.

    Attributes:
        turns: What was said, also what failed.
        tools: The tools by name.
        tools_code: How each is written in code.

    Raises:
        TypeError: `chat` is no chat model, or a tool cannot be called.
    """

    def __init__(self, chat: BaseChatModel, tools: Sequence[Any] = ()) -> None:
        if not isinstance(chat, BaseChatModel):
            raise TypeError(
                f"chat={chat!r} is no chat model. Give a ChatLlamaCpp(model_path=…): it shares the "
                "loaded model with a LlamaCpp on the same file."
            )
        self.chat = chat
        self.turns: list[Turn] = []
        made = [_as_tool(given) for given in tools]
        self.tools = {one.name: one for one in made}
        self.tools_code = [
            one.name if isinstance(given, BaseTool) else f"tool({one.name})"
            for one, given in zip(made, tools, strict=True)
        ]
        self._calling: Any = chat.bind_tools(made) if made else chat
        self._telling: Any = chat.bind_tools(made, tool_choice="none") if made else chat

    @property
    def kept(self) -> list[Turn]:
        """The turns that are a part of the conversation."""
        return [turn for turn in self.turns if turn.state in ("done", "stopped")]

    def messages(self, system: str) -> list[BaseMessage]:
        """The conversation as LangChain messages, after a system prompt."""
        said = [one for turn in self.kept for one in (HumanMessage(turn.question), *turn.steps)]
        return [SystemMessage(system), *said] if system.strip() else said

    def ask(
        self,
        text: str,
        *,
        system: str = "",
        temperature: float = 0.0,
        show: Show = lambda turn: None,
        stop: threading.Event | None = None,
    ) -> AIMessage:
        """Say something, and wait for the answer.

        Args:
            text: What to say.
            system: The system prompt.
            temperature: The temperature.
            show: Called with the turn as it grows, some 15 times a second, from another thread.
            stop: Set it, from any thread, to end the answer at once; what there is of it stays.

        Returns:
            The answer, also one that was stopped.

        Raises:
            Exception: As the model; the turn is then no part of the conversation.
        """
        turn = Turn(text, system, temperature)
        before = [*self.messages(system), HumanMessage(text)]
        stop = threading.Event() if stop is None else stop
        self.turns.append(turn)
        # In Jupyter the caller's thread has an event loop already, and one cannot run in another.
        with ThreadPoolExecutor(1, "conversation") as thread:
            done = thread.submit(asyncio.run, self._watched(turn, before, show, stop))
            try:
                done.result()
            except KeyboardInterrupt:
                stop.set()
                raise
        return turn.answers[-1]

    async def _watched(
        self, turn: Turn, before: list[BaseMessage], show: Show, stop: threading.Event
    ) -> None:
        """Answer; meanwhile show what there is, and look whether to stop."""
        stream = _Stream(turn.steps)
        work = asyncio.ensure_future(self._rounds(turn, before, stream))
        try:
            shown = -1
            while not (await asyncio.wait({work}, timeout=_TICK_S))[0]:
                if stream.take() or shown != len(turn.steps):
                    show(turn)
                    shown = len(turn.steps)
                if stop.is_set():
                    work.cancel()
                    break
            await work
            turn.state = "done"
        except asyncio.CancelledError:
            stream.take()
            _end_early(turn)
        except Exception as error:
            stream.take()
            turn.state, turn.error = "failed", error
            raise
        finally:
            show(turn)

    async def _rounds(self, turn: Turn, before: list[BaseMessage], stream: _Stream) -> None:
        """Let the model speak until it calls no more tools."""
        for model in [self._calling] * ROUNDS + [self._telling]:
            messages = [*before, *turn.steps]
            answer = await stream.read(model.astream(messages, temperature=turn.temperature))
            if not answer.tool_calls:
                return
            if model is self._telling:
                turn.steps[-1] = _without_calls(answer, f"more than {ROUNDS} rounds of calls")
            for call in turn.answers[-1].tool_calls:
                turn.steps.append(await self._result(dict(call)))

    async def _result(self, call: dict[str, Any]) -> ToolMessage:
        """What a tool gives; a failure is a result too, so that the model can do better."""
        try:
            if call["name"] not in self.tools:
                raise LookupError(f"There is no such tool. There are: {', '.join(self.tools)}.")
            called = self.tools[call["name"]]
            # In a loop of its own, which may be left waiting for a tool that does not end.
            result = await _apart(lambda: asyncio.run(called.ainvoke(call | {"type": "tool_call"})))
            return cast("ToolMessage", result)
        except Exception as error:
            return _no_result(call, f"{type(error).__name__}: {error}")


class _Stream:
    """Puts the pieces of an answer together, many at a time: each sum copies all of it."""

    def __init__(self, steps: list[BaseMessage]) -> None:
        self._steps = steps
        self._waiting: list[AIMessageChunk] = []
        self._begun = False

    async def read(self, chunks: AsyncIterator[Any]) -> AIMessage:
        """Read an answer to its end, and put it among the steps."""
        self._begun = False
        async for chunk in chunks:
            self._waiting.append(chunk)
        self.take()
        self._steps[-1] = message_chunk_to_message(self._steps[-1])
        return cast("AIMessage", self._steps[-1])

    def take(self) -> bool:
        """Add what has come to the last step; False if nothing has."""
        if not self._waiting:
            return False
        whole = [cast("AIMessageChunk", self._steps.pop())] if self._begun else []
        self._steps.append(add_ai_message_chunks(*whole, *self._waiting))
        self._waiting, self._begun = [], True
        return True


def _end_early(turn: Turn) -> None:
    """Leave a stopped turn so that the conversation can go on from it: the model spoke last."""
    turn.state = "stopped"
    if isinstance(turn.steps[-1] if turn.steps else None, AIMessageChunk):
        turn.steps[-1] = _without_calls(cast("AIMessage", turn.steps[-1]), "stopped")
    else:
        calls = turn.answers[-1].tool_calls if turn.steps else []
        done = turn.results
        turn.steps += [_no_result(dict(one), "stopped") for one in calls if one["id"] not in done]
        turn.steps.append(AIMessage(""))
    turn.steps[-1].response_metadata["finish_reason"] = "cancelled"


def _without_calls(message: AIMessage, why: str) -> AIMessage:
    """A message whose calls will have no results: they are kept as calls that cannot be made."""
    calls: list[Any] = getattr(message, "tool_call_chunks", None) or list(message.tool_calls)
    faults = [
        {
            "type": "invalid_tool_call",
            "id": call["id"],
            "name": call["name"],
            "args": str(call["args"]),
            "error": why,
        }
        for call in calls
    ]
    plain = cast("AIMessage", message_chunk_to_message(message))
    return plain.model_copy(update={"tool_calls": [], "invalid_tool_calls": faults})


def _as_tool(given: Any) -> BaseTool:
    if isinstance(given, BaseTool):
        return given
    if not callable(given) or isinstance(given, type):
        raise TypeError(
            f"tools has {given!r}, which cannot be called: give functions with a docstring, or "
            "tools of LangChain."
        )
    return cast("BaseTool", tool(given))


def _no_result(call: dict[str, Any], why: str) -> ToolMessage:
    return ToolMessage(why, tool_call_id=call["id"] or "", name=call["name"], status="error")


async def _apart(action: Callable[[], Any]) -> Any:
    """Do something in a thread for which nobody waits once the task is cancelled."""
    done: Future[Any] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(action())
        except Exception as error:
            done.set_exception(error)
        except BaseException as error:  # a tool that calls sys.exit() ends nothing but itself
            done.set_exception(RuntimeError(f"The tool ended with {error!r}."))

    threading.Thread(target=run, name="tool", daemon=True).start()
    return await asyncio.wrap_future(done)
