"""What a reader of replies finds, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Content:
    """More of the text that is meant for the user."""

    text: str


@dataclass(frozen=True)
class Thought:
    """More of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A call begins: its number in the reply, from 0, the tool's name, its id where it has one."""

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True)
class CallArguments:
    """More of a call's arguments, as JSON text whatever form the model writes them in."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """A call is whole; `id` where the model writes it after the arguments."""

    index: int
    id: str | None = None


@dataclass(frozen=True)
class CallFault:
    """What was to be a call and is none: all of its text, and what is wrong with it.

    `name` is None where not even that was read. A call that had begun ends with this.
    """

    index: int
    text: str
    error: str
    name: str | None = None


Event = Content | Thought | CallBegin | CallArguments | CallEnd | CallFault
