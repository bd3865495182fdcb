"""The examples in the docstrings of grammars and the playground are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import helpers.grammars

MODULES = [
    "helpers.grammars",
    *(
        found.name
        for found in pkgutil.walk_packages(helpers.grammars.__path__, "helpers.grammars.")
    ),
    "helpers.widgets.grammar_trials",
    "helpers.widgets.playground",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    count = sum(
        len(found.examples)
        for name in MODULES
        for found in finder.find(importlib.import_module(name))
    )
    assert count >= 25
