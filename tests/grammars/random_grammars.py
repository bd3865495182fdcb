"""Random grammars that a model has something to say under, for tests of generated text."""

from __future__ import annotations

import random

_WORDS = ["the", "a ", " and ", "cat", "yes", "no", ", ", ". ", "- ", "\\n", "한국", "é", "😀", "1"]
_CLASSES = ["[a-z]", "[0-9]", "[^.\\n]", "[a-zA-Z ,]", "[가-힣]", "[à-ÿ]", "[^a-z\\x22]", "."]
_REPEATS = ["", "", "", "?", "*", "+", "{2}", "{1,4}", "{0,3}", "{2,}"]


def random_grammar(rng: random.Random) -> str:
    """A correct grammar of one to four rules: literals, classes, groups, repetitions, recursion.

    Args:
        rng: Where the choices come from.

    Returns:
        GBNF.
    """
    names = ["root", "part", "item", "end"][: rng.randint(1, 4)]
    lines = []
    for number, name in enumerate(names):
        # Rules refer to later ones only, but for a recursion that always begins with a literal:
        # so none is left-recursive, and each has a text.
        body = _choice(rng, names[number + 1 :], 2)
        if rng.random() < 0.3:
            body = f'"{rng.choice(_WORDS)}" {name} | {body}'
        lines.append(f"{name} ::= {body}")
    return "\n".join(lines) + "\n"


def _choice(rng: random.Random, names: list[str], depth: int) -> str:
    count = rng.choice([1, 1, 2, 3])
    return " | ".join(_sequence(rng, names, depth) for _ in range(count))


def _sequence(rng: random.Random, names: list[str], depth: int) -> str:
    return " ".join(_part(rng, names, depth) for _ in range(rng.randint(1, 3)))


def _part(rng: random.Random, names: list[str], depth: int) -> str:
    kind = rng.random()
    if kind < 0.35 or depth == 0:
        part = f'"{rng.choice(_WORDS)}{rng.choice(_WORDS)}"'
    elif kind < 0.65:
        part = rng.choice(_CLASSES)
    elif kind < 0.85 and names:
        part = rng.choice(names)
    else:
        part = f"({_choice(rng, names, depth - 1)})"
    return part + rng.choice(_REPEATS)
