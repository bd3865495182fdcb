"""Decides whether a text belongs to a GBNF grammar, and where it stops doing so.

A recogniser independent of llguidance and of llama.cpp: it judges `Grammar.matches`,
explains failures without a model, and is the tests' oracle for matchers. It is a
nondeterministic pushdown machine whose stacks share their common parts (a graph-structured stack,
Tomita 1985): the work grows with the length of the text, not with the number of ways to read it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from helpers.errors import GrammarError
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
    quote,
    show,
)

MAX_STEPS = 3_000_000
"""Steps after which a text counts as too ambiguous to be judged (some seconds)."""
MAX_LABEL = 200
"""Characters of a literal that are said to be expected."""

_CHAR, _CALL, _SPLIT, _END, _ACCEPT, _TOKEN = range(6)


@dataclass(slots=True)
class _Instruction:
    kind: int
    next: int = -1
    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    rule: str = ""
    targets: tuple[int, ...] = ()
    node: Node | None = None
    at: int = 0

    @property
    def label(self) -> str:
        """What is expected here, as GBNF; of a literal, the rest."""
        assert self.node is not None
        if isinstance(self.node, Literal):
            rest = self.node.text[self.at : self.at + MAX_LABEL + 1]
            return quote(rest) if len(rest) <= MAX_LABEL else quote(rest[:MAX_LABEL]) + "…"
        return show(self.node)

    def takes(self, code: int) -> bool:
        at = bisect_right(self.starts, code) - 1
        return at >= 0 and code <= self.ends[at]


class Program:
    """A grammar compiled to instructions; made once, then only read."""

    def __init__(self, rules: Rules) -> None:
        self.code: list[_Instruction] = [_Instruction(_END), _Instruction(_ACCEPT)]
        self.entry: dict[str, int] = {}
        # Groups that repeat become rules of their own, so that only a call is copied.
        self.pending: list[tuple[str, Node]] = list(rules.items())
        while self.pending:
            name, node = self.pending.pop()
            self.entry[name] = self._compile(node, 0)

    def _emit(self, instruction: _Instruction) -> int:
        self.code.append(instruction)
        return len(self.code) - 1

    def _compile(self, node: Node, after: int) -> int:
        """Add the instructions of `node`; they go on at `after`; give back where they begin."""
        if isinstance(node, Literal):
            for at in range(len(node.text) - 1, -1, -1):
                code = (ord(node.text[at]),)
                after = self._emit(_Instruction(_CHAR, after, code, code, node=node, at=at))
            return after
        if isinstance(node, Chars):
            starts = tuple(low for low, _ in node.ranges)
            ends = tuple(high for _, high in node.ranges)
            return self._emit(_Instruction(_CHAR, after, starts, ends, node=node))
        if isinstance(node, Token):
            return self._emit(_Instruction(_TOKEN, after, node=node))
        if isinstance(node, Ref):
            return self._emit(_Instruction(_CALL, after, rule=node.name))
        if isinstance(node, Sequence):
            for item in reversed(node.items):
                after = self._compile(item, after)
            return after
        if isinstance(node, Choice):
            targets = tuple(self._compile(option, after) for option in node.options)
            return self._emit(_Instruction(_SPLIT, targets=targets))
        return self._repeat(node, after)

    def _repeat(self, node: Repeat, after: int) -> int:
        item = node.item
        if max(node.low, node.high or 0) > 1 and not isinstance(
            item, Literal | Chars | Ref | Token
        ):
            name = f"({len(self.entry)}.{len(self.code)})"
            self.pending.append((name, item))
            self.entry[name] = -1
            item = Ref(name)
        if node.high is None:
            loop = self._emit(_Instruction(_SPLIT))
            self.code[loop].targets = (after, self._compile(item, loop))
            after = loop
        else:
            exit_ = after
            for _ in range(node.high - node.low):
                targets = (exit_, self._compile(item, after))
                after = self._emit(_Instruction(_SPLIT, targets=targets))
        for _ in range(node.low):
            after = self._compile(item, after)
        return after


class _Call:
    """A rule entered at some place of the text, and where to go on when it is done."""

    __slots__ = ("returns", "row", "tails")

    def __init__(self, row: int) -> None:
        self.row = row
        self.returns: set[tuple[int, _Call | None]] = set()
        self.tails: list[_Call] = []


class Recognizer:
    """Reads one text, character by character.

    Args:
        program: The compiled grammar.

    >>> from helpers.grammars.gbnf.parser import parse
    >>> reader = Recognizer(Program(parse('root ::= "a" root | "b"').rules))
    >>> [reader.step(char) for char in "aab"], reader.accepting
    ([True, True, True], True)
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.position = 0
        self.steps = 0
        self.accepting = False
        self.waiting: list[tuple[int, _Call]] = []
        start = _Call(0)
        start.returns.add((1, None))
        self._close([(program.entry["root"], start)], {"root": start})

    def step(self, char: str) -> bool:
        """Read one character.

        Args:
            char: The character.

        Returns:
            Whether any text of the grammar continues like this. If not, nothing has changed.

        Raises:
            GrammarError: If the grammar is too ambiguous for a text this long.
        """
        code = ord(char)
        instructions = self.program.code
        self._spend(len(self.waiting))
        seeds = [
            (instructions[at].next, call)
            for at, call in self.waiting
            if instructions[at].takes(code)
        ]
        if not seeds:
            return False
        self.position += 1
        self._close(seeds, {})
        return True

    def expected(self) -> tuple[str, ...]:
        """What could come next, as GBNF, each once."""
        return tuple(sorted({self.program.code[at].label for at, _ in self.waiting}))

    def _close(self, seeds: list[tuple[int, _Call]], calls: dict[str, _Call]) -> None:
        """Follow everything that needs no character, from the given places."""
        code = self.program.code
        row = self.position
        todo: list[tuple[int, _Call | None]] = list(dict.fromkeys(seeds))
        seen = set(todo)
        done: set[_Call] = set()
        waiting: list[tuple[int, _Call]] = []
        self.accepting = False

        def visit(place: tuple[int, _Call | None]) -> None:
            if place not in seen:
                seen.add(place)
                todo.append(place)

        def give(call: _Call, place: tuple[int, _Call | None]) -> None:
            """Add a return to a call, and to the calls that end where it ends."""
            targets = [call]
            while targets:
                target = targets.pop()
                self._spend(1)
                if place not in target.returns:
                    target.returns.add(place)
                    if target in done:
                        visit(place)
                    targets.extend(target.tails)

        while todo:
            at, call = todo.pop()
            self._spend(1)
            instruction = code[at]
            kind = instruction.kind
            if kind == _ACCEPT or call is None:
                self.accepting = True
            elif kind == _CHAR:
                waiting.append((at, call))
            elif kind == _TOKEN:
                raise GrammarError(
                    f"The grammar asks for the token {instruction.label}; only a matcher with the "
                    "model's vocabulary can judge that, not a text alone."
                )
            elif kind == _SPLIT:
                for target in instruction.targets:
                    visit((target, call))
            elif kind == _END:
                # A call of this row may get more returns later; `done` passes those on.
                if call.row == row:
                    done.add(call)
                self._spend(len(call.returns))
                for place in list(call.returns):
                    visit(place)
            else:
                target_call = calls.get(instruction.rule)
                if target_call is None:
                    target_call = calls[instruction.rule] = _Call(row)
                    visit((self.program.entry[instruction.rule], target_call))
                if code[instruction.next].kind == _END:
                    # A call in last place returns where its caller returns: right recursion
                    # then costs the same at every character.
                    if call.row == row:
                        call.tails.append(target_call)
                    self._spend(len(call.returns))
                    for place in list(call.returns):
                        give(target_call, place)
                else:
                    give(target_call, (instruction.next, call))
        self.waiting = waiting

    def _spend(self, steps: int) -> None:
        """Count steps of work, and end what takes too many."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise GrammarError(
                f"The text is too long or the grammar too ambiguous to judge more than "
                f"{self.position} characters: they took {MAX_STEPS:,} steps. If there are too many "
                "ways to read them, make the grammar's alternatives begin differently."
            )
