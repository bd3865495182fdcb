"""Grammars: what a generated text may be, from GBNF, JSON Schema, pydantic or TypeScript.

>>> from helpers.grammars import Grammar
>>> Grammar.from_string('root ::= [0-9]{3}').matches("042")
True

`Grammar` checks everything when it is made; `Matcher` (from `Grammar.matcher`) is what a token loop
asks, token by token, with the `Vocabulary` of its model.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.grammars.explain import Explanation
    from helpers.grammars.grammar import Grammar
    from helpers.grammars.mask import Matcher, Vocabulary
    from helpers.grammars.mask.trace import TokenChoice, TracedToken, trace_choices

_MODULE_OF = {
    "Explanation": "explain",
    "Grammar": "grammar",
    "Matcher": "mask",
    "TokenChoice": "mask.trace",
    "TracedToken": "mask.trace",
    "Vocabulary": "mask",
    "trace_choices": "mask.trace",
}

__all__ = [
    "Explanation",
    "Grammar",
    "Matcher",
    "TokenChoice",
    "TracedToken",
    "Vocabulary",
    "trace_choices",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
