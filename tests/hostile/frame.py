"""Uses that do not meet their expectation: the tests of the frame that judges the others."""

from __future__ import annotations

import os
import sys

from tests.hostile.base import Exits, Gives, Raises, Says, Uses

use = Uses("frame")


@use("abort", Gives(None))
def abort() -> object:
    os.abort()


@use("another answer", Gives(1))
def another_answer() -> object:
    return 2


@use("no exception", Raises("ValueError"))
def no_exception() -> object:
    return 1


@use("another exception", Raises("ValueError"))
def another_exception() -> object:
    raise TypeError("no value")


@use("an exception in other words", Raises("ValueError", "this"))
def an_exception_in_other_words() -> object:
    raise ValueError("that")


@use("an answer in other words", Says("this"))
def an_answer_in_other_words() -> object:
    return "that"


@use("an end without an outcome", Gives(None))
def an_end_without_an_outcome() -> object:
    sys.exit(0)


@use("another status", Exits(0, ""))
def another_status() -> object:
    sys.exit(3)
