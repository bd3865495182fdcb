"""Checks beyond syntax: names exist, no rule loops, every rule can end."""

from __future__ import annotations

from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter

from helpers.errors import GrammarError
from helpers.grammars.gbnf.parser import Parsed
from helpers.grammars.gbnf.syntax import (
    Chars,
    Choice,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    Token,
    children,
    walk,
)
from helpers.grammars.places import error_at, line_and_column

MAX_ELEMENTS = 200_000
"""Elements after repetitions are expanded; matchers hold them in memory."""

MAX_WARNINGS = 20
MAX_DEPTH = 200
"""Rules and groups inside each other; llguidance reads them by recursion, on a stack of 1 MB at
worst (Windows), and some five kilobytes each."""


def check(parsed: Parsed) -> list[str]:
    """Check a grammar that has been read.

    Args:
        parsed: Result of `gbnf.parse`.

    Returns:
        Warnings: rules that `root` never reaches.

    Raises:
        GrammarError: For a missing root, an undefined rule, left recursion, a rule that cannot
            end, and repetitions that multiply beyond any use.
    """
    rules, places, source = parsed.rules, parsed.places, parsed.source
    if "root" not in rules:
        names = ", ".join(f"'{name}'" for name in list(rules)[:5])
        raise error_at(
            source,
            0,
            "expected a rule named 'root': it says what the whole text looks like. "
            + (f"Defined are {names}." if rules else "The grammar has no rules at all."),
        )
    for node in rules.values():
        for ref in references(node):
            if ref.name not in rules:
                message = f"rule '{ref.name}' is not defined.{_nearest(ref.name, rules)}"
                raise _error(parsed, ref.offset, ref.name, message)
    _check_left_recursion(parsed)
    _check_ends(parsed)
    _check_size(parsed)
    _check_depth(parsed)
    reached = reachable(rules)
    unused = [name for name in rules if name not in reached]
    warnings = [
        f"line {line_and_column(source, places[name])[0]}: rule '{name}' is never used."
        for name in unused[:MAX_WARNINGS]
    ]
    if len(unused) > MAX_WARNINGS:
        warnings.append(f"{len(unused) - MAX_WARNINGS} more rules are never used.")
    return warnings


def _error(parsed: Parsed, offset: int, name: str, message: str) -> GrammarError:
    """An error that shows a name where it stands."""
    return error_at(parsed.source, offset, message, end=offset + len(name))


def references(node: Node) -> list[Ref]:
    """All names used inside a node, in order."""
    return [part for part in walk(node) if isinstance(part, Ref)]


def reachable(rules: Rules) -> set[str]:
    """Names of the rules that `root` leads to, itself included."""
    seen = {"root"}
    todo = ["root"]
    while todo:
        for ref in references(rules[todo.pop()]):
            if ref.name not in seen:
                seen.add(ref.name)
                todo.append(ref.name)
    return seen


def _least_rules(rules: Rules, holds: Callable[[Node, set[str]], bool]) -> set[str]:
    """Names of the rules for which something holds, given the rules for which it does."""
    users: dict[str, list[str]] = {}
    for name, node in rules.items():
        for ref in {ref.name for ref in references(node)}:
            users.setdefault(ref, []).append(name)
    found: set[str] = set()
    todo = list(rules)
    while todo:
        name = todo.pop()
        if name not in found and holds(rules[name], found):
            found.add(name)
            todo.extend(users.get(name, ()))
    return found


def _is_nullable(node: Node, nullable: set[str]) -> bool:
    """Whether a node can match the empty text, given the rules that can."""
    if isinstance(node, Literal):
        return not node.text
    return not isinstance(node, Chars | Token) and _holds(node, nullable, _is_nullable)


def _can_end(node: Node, ending: set[str]) -> bool:
    """Whether a node can match any text, given the rules that can."""
    if isinstance(node, Chars):
        return bool(node.ranges)
    return isinstance(node, Literal | Token) or _holds(node, ending, _can_end)


def _holds(node: Node, rules: set[str], holds: Callable[[Node, set[str]], bool]) -> bool:
    if isinstance(node, Ref):
        return node.name in rules
    if isinstance(node, Repeat):
        return node.low == 0 or holds(node.item, rules)
    combine = any if isinstance(node, Choice) else all
    return combine(holds(child, rules) for child in children(node))


def _nearest(name: str, rules: Rules) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(rules)[:2000], n=1)
    return f" Did you mean '{close[0]}'?" if close else " Define it, or correct the name."


def _check_left_recursion(parsed: Parsed) -> None:
    """Refuse rules that can come back to themselves before a character is read.

    llama.cpp refuses most of these and loops forever on the rest (those hidden behind a rule that
    is empty only by way of others), so the test here is exact.
    """
    nullable = _least_rules(parsed.rules, _is_nullable)
    leads = {name: _leftmost(node, nullable) for name, node in parsed.rules.items()}
    graph = TopologicalSorter[str](dict.fromkeys(parsed.rules, ()))
    for name, refs in leads.items():
        for ref in refs:
            graph.add(ref.name, name)
    try:
        graph.prepare()
    except CycleError as error:
        loop = error.args[1]
        closing = next(ref for ref in leads[loop[-2]] if ref.name == loop[-1])
        shown = loop if len(loop) < 8 else [*loop[:3], "…", *loop[-3:]]
        message = (
            f"left recursion: {' -> '.join(shown)} comes back to itself before any "
            "character is read. Put a literal first, or write the loop as ( … )*."
        )
        raise _error(parsed, closing.offset, closing.name, message) from None


def _leftmost(node: Node, nullable: set[str]) -> list[Ref]:
    if isinstance(node, Ref):
        return [node]
    if isinstance(node, Sequence):
        found: list[Ref] = []
        for item in node.items:
            found += _leftmost(item, nullable)
            if not _is_nullable(item, nullable):
                break
        return found
    return [ref for child in children(node) for ref in _leftmost(child, nullable)]


def _check_ends(parsed: Parsed) -> None:
    rules = parsed.rules
    ending = _least_rules(rules, _can_end)
    for name in rules:
        if name not in ending:
            message = (
                f"rule '{name}' matches no text: each way through it needs itself, another such "
                "rule, or a character that does not exist. Add an alternative that ends."
            )
            raise _error(parsed, parsed.places[name], name, message)


def _check_size(parsed: Parsed) -> None:
    total = 0
    for name, node in parsed.rules.items():
        total += element_count(node)
        if total > MAX_ELEMENTS:
            message = (
                f"expanded, the repetitions up to rule '{name}' have more than {MAX_ELEMENTS} "
                "elements. Use smaller bounds, '*' or '+'."
            )
            raise _error(parsed, parsed.places[name], name, message)


def _check_depth(parsed: Parsed) -> None:
    """Follow the rules as llguidance does: depth first, each of them once."""
    inner = {name: _depths(node) for name, node in parsed.rules.items()}
    seen = {"root"}
    stack = [(0, iter(inner["root"]))]
    while stack:
        depth, rest = stack[-1]
        found = next(rest, None)
        if found is None:
            stack.pop()
            continue
        ref, below = found
        if depth + below > MAX_DEPTH:
            raise error_at(
                parsed.source,
                ref.offset if ref else 0,
                f"rules and groups lead more than {MAX_DEPTH} deep into each other.",
            )
        if ref is not None and ref.name not in seen:
            seen.add(ref.name)
            stack.append((depth + below, iter(inner[ref.name])))


def _depths(node: Node) -> list[tuple[Ref | None, int]]:
    """The references in a node with their depth, and the depth of its deepest group."""
    found: list[tuple[Ref | None, int]] = []
    todo = [(node, 1)]
    deepest = 1
    while todo:
        node, depth = todo.pop()
        deepest = max(deepest, depth)
        if isinstance(node, Ref):
            found.append((node, depth))
        below = depth if isinstance(node, Sequence) else depth + 1
        todo.extend((child, below) for child in reversed(children(node)))
    return [*found, (None, deepest)]


def element_count(node: Node) -> int:
    """Elements of a node after repetitions are written out, as llama.cpp does it."""
    if isinstance(node, Literal):
        return len(node.text) or 1
    if isinstance(node, Chars | Token | Ref):
        return 1
    if isinstance(node, Repeat):
        times = max(node.low, node.high or 0, 1)
        inner = element_count(node.item)
        # A group becomes a rule of its own, and only the reference to it is copied.
        return inner + times if isinstance(node.item, Sequence | Choice) else inner * times
    return sum(element_count(child) for child in children(node)) + 1
