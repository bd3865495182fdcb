"""Reads GBNF, llama.cpp's grammar notation, and says where a grammar is wrong and what to write.

llama.cpp has a parser of its own, but for a grammar with an error it returns a null pointer that
crashes the program, and some errors make it allocate without end. Nothing reaches that parser
before this one has read all of it. The notation is the one of `src/llama-grammar.cpp` in
llama.cpp; what that accepts by accident (an empty class, a rule defined twice, reversed bounds)
is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from helpers.errors import GrammarError
from helpers.grammars.gbnf.syntax import (
    ANY_CHAR,
    MAX_CODE_POINT,
    SHORT_BOUNDS,
    Chars,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Token,
    choice,
    make_ranges,
    sequence,
)
from helpers.grammars.places import error_at, line_and_column

MAX_REPETITIONS = 2000
"""Largest repetition count, as in llama.cpp, which silently drops any larger upper bound."""
MAX_LENGTH = 400_000
"""Characters in a grammar's text: some megabytes would take longer than a second to read."""
MAX_NAME = 200
"""Characters in the name of a rule, so that messages stay readable."""
MAX_STACKED = 8
"""Repetitions of a repetition, as in `x*+?`: more than one is hardly ever meant."""
MAX_DEPTH = 100
"""Nested parentheses; llama.cpp's parser calls itself for each, without a limit."""

_NAME = re.compile(r"[A-Za-z0-9-]+")
_DIGITS = re.compile(r"[0-9]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_PLAIN_TEXT = re.compile(r'[^"\\]+')
_TOKEN_NUMBER = re.compile(r"<\[([0-9]+)\]>")
_TOKEN_TEXT = re.compile(r"<[^>\r\n]*>")
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


def parse(source: str) -> Parsed:
    """Read GBNF.

    Args:
        source: The grammar's text.

    Returns:
        Its rules; references are not yet checked.

    Raises:
        GrammarError: At the first syntax error, with line, column and what was expected.

    >>> parse('root ::= "yes" | "no"').rules["root"].options[0].text
    'yes'
    """
    if not isinstance(source, str):
        raise GrammarError(f"A grammar is a str, not {type(source).__name__}.")
    if len(source) > MAX_LENGTH:
        raise GrammarError(
            f"The grammar has {len(source)} characters; at most {MAX_LENGTH} are read. "
            "Split it, or let character classes and repetitions express the same in less."
        )
    for bad in re.finditer("[\0\ud800-\udfff]", source):
        raise error_at(
            source, bad.start(), f"U+{ord(bad[0]):04X} cannot be part of a grammar; remove it."
        )
    return _Parser(source).parse()


@dataclass(frozen=True)
class Parsed:
    """A grammar that has been read, with the place of each rule for later messages."""

    source: str
    rules: Rules
    places: dict[str, int]


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.mark = 0  # where the last repetition began

    def parse(self) -> Parsed:
        rules: Rules = {}
        places: dict[str, int] = {}
        self.skip(lines=True)
        while self.at < len(self.source):
            start = self.at
            name = self.rule_name()
            if name in rules:
                first = line_and_column(self.source, places[name])[0]
                raise self.error(
                    f"rule '{name}' is defined twice, first in line {first}; "
                    "join both with '|' or rename one.",
                    start,
                    end=start + len(name),
                )
            self.skip()
            if not self.source.startswith("::=", self.at):
                raise self.error(f"expected '::=' after the rule name '{name}'.{self.hint()}")
            self.at += 3
            self.skip(lines=True)
            places[name] = start
            rules[name] = self.alternatives(0)
            if self.at < len(self.source) and self.peek() not in "\r\n":
                raise self.error(f"expected {_ITEMS}, '|' or a new line.{self.hint()}")
            self.skip(lines=True)
        return Parsed(self.source, rules, places)

    # -- small steps ------------------------------------------------------------------------

    def peek(self) -> str:
        return self.source[self.at] if self.at < len(self.source) else ""

    def skip(self, *, lines: bool = False) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self.source, self.at)
        assert found is not None  # both patterns match the empty text
        self.at = found.end()

    def error(
        self, message: str, offset: int | None = None, end: int | None = None
    ) -> GrammarError:
        return error_at(self.source, self.at if offset is None else offset, message, end=end)

    def hint(self) -> str:
        """Say what the offending character usually means, where that is known."""
        char = self.peek()
        if not char:
            return " The text ends here."
        if char in "*+?{":
            return f" There is nothing before this '{char}' that it could repeat."
        return _HINTS.get(char, f" Found {char!r}.")

    def rule_name(self) -> str:
        name = self.name()
        if name is None:
            raise self.error(f"expected the name of a rule.{self.hint()}")
        return name

    def name(self) -> str | None:
        found = _NAME.match(self.source, self.at)
        if found is None:
            return None
        if len(found[0]) > MAX_NAME:
            raise self.error(f"the name of a rule has at most {MAX_NAME} characters.")
        self.at = found.end()
        return found[0]

    # -- what a rule is made of -------------------------------------------------------------

    def alternatives(self, depth: int) -> Node:
        options = [self.items(depth)]
        while self.peek() == "|":
            self.at += 1
            self.skip(lines=True)
            options.append(self.items(depth))
        return choice(options)

    def items(self, depth: int) -> Node:
        nested = depth > 0
        done: list[Node] = []
        # Multiplied as llama.cpp does it: x{50}{50} would be copied 2500 times.
        copies = 1
        stacked = 0
        repeatable = False
        while char := self.peek():
            if char in "*+?{":
                low, high = self.bounds(nested)
                if not repeatable:
                    raise self.error(
                        f"expected {_ITEMS} before this repetition: there is nothing to repeat.",
                        self.mark,
                    )
                copies *= max(low, high or 1, 1)
                stacked += 1
                if stacked > MAX_STACKED:
                    raise self.error("too many repetitions of one item in a row.", self.mark)
                if copies > MAX_REPETITIONS:
                    raise self.error(
                        f"repetitions multiply to {copies} copies; llama.cpp takes at most "
                        f"{MAX_REPETITIONS}. Use '*' or '+', or smaller bounds.",
                        self.mark,
                    )
                if (low, high) == (0, 0):
                    done.pop()
                    repeatable = False
                else:
                    done[-1] = Repeat(done[-1], low, high)
            else:
                node = self.item(char, depth)
                if node is None:
                    break
                done.append(node)
                copies, stacked, repeatable = 1, 0, node != Literal("")
            self.skip(lines=nested)
        return sequence(done)

    def item(self, char: str, depth: int) -> Node | None:
        if char == '"':
            return self.literal()
        if char == "[":
            return self.char_class()
        if char == ".":
            self.at += 1
            return ANY_CHAR
        if char in "<!":
            return self.token()
        if char == "(":
            return self.group(depth)
        start = self.at
        name = self.name()
        if name is None:
            return None
        after = _SPACE.match(self.source, self.at)
        assert after is not None
        if self.source.startswith("::=", after.end()):
            raise self.error(
                f"expected the end of the rule before; '{name} ::=' has to start a line of its "
                "own, outside of parentheses.",
                start,
                end=self.at,
            )
        return Ref(name, start)

    def group(self, depth: int) -> Node:
        start = self.at
        if depth >= MAX_DEPTH:
            raise self.error(
                f"parentheses are nested more than {MAX_DEPTH} deep; give the inner part a rule."
            )
        self.at += 1
        self.skip(lines=True)
        node = self.alternatives(depth + 1)
        if self.peek() != ")":
            line = line_and_column(self.source, start)[0]
            raise self.error(
                f"expected {_ITEMS}, '|' or the ')' that closes the '(' of line {line}."
                f"{self.hint()}"
            )
        self.at += 1
        return node

    def literal(self) -> Node:
        start = self.at
        self.at += 1
        parts: list[str] = []
        while (char := self.peek()) != '"':
            if not char:
                raise self.error("expected '\"' to end this literal.", start)
            plain = _PLAIN_TEXT.match(self.source, self.at)
            if plain is not None:
                parts.append(plain[0])
                self.at = plain.end()
                continue
            at = self.at
            code = self.char()
            if code == 0 or 0xD800 <= code <= 0xDFFF:
                raise self.error(f"U+{code:04X} cannot appear in a text.", at, end=self.at)
            parts.append(chr(code))
        self.at += 1
        return Literal("".join(parts))

    def char_class(self) -> Node:
        start = self.at
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        pairs: list[tuple[int, int]] = []
        while self.peek() != "]":
            self.need_more(start)
            place = self.at
            low = high = self.char()
            if self.peek() == "-" and self.source[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                self.need_more(start)
                high = self.char()
            if high < low:
                raise self.error(
                    f"the range runs backwards: U+{low:04X} comes after U+{high:04X}. "
                    "Swap both, or write '-' last or as '\\-'.",
                    place,
                    end=self.at,
                )
            pairs.append((low, high))
        self.at += 1
        if not pairs:
            raise self.error(
                "expected at least one character in the class; "
                "'.' means any character, '\"\"' means nothing.",
                start,
                end=self.at,
            )
        return Chars(make_ranges(pairs, negated=negated))

    def need_more(self, start: int) -> None:
        if not self.peek():
            raise self.error("expected ']' to end this character class.", start)

    def char(self) -> int:
        char = self.source[self.at]
        if char != "\\":
            self.at += 1
            return ord(char)
        kind = self.source[self.at + 1 : self.at + 2]
        if kind in _HEX_LENGTHS:
            length = _HEX_LENGTHS[kind]
            digits = self.source[self.at + 2 : self.at + 2 + length]
            if not re.fullmatch(f"[0-9A-Fa-f]{{{length}}}", digits):
                raise self.error(f"expected {length} hexadecimal digits after '\\{kind}'.")
            code = int(digits, 16)
            if code > MAX_CODE_POINT:
                raise self.error(
                    f"'\\{kind}{digits}' is beyond U+10FFFF, the last character there is.",
                    end=self.at + 2 + length,
                )
            self.at += 2 + length
            return code
        if not kind or kind not in _ESCAPED:
            raise self.error(
                f"unknown escape '\\{kind}'; GBNF knows "
                '\\n \\r \\t \\\\ \\" \\[ \\] \\- \\xHH \\uHHHH \\UHHHHHHHH.',
                end=self.at + 2,
            )
        self.at += 2
        return ord(_ESCAPED[kind])

    def token(self) -> Node:
        start = self.at
        negated = self.peek() == "!"
        self.at += negated
        if found := _TOKEN_NUMBER.match(self.source, self.at):
            # More digits than any vocabulary needs; llama.cpp overflows on them.
            if len(found[1]) > 9:
                raise self.error("no vocabulary has a token of this number.", start)
            self.at = found.end()
            return Token(int(found[1]), None, negated)
        if (found := _TOKEN_TEXT.match(self.source, self.at)) and not found[0].startswith("<["):
            self.at = found.end()
            return Token(None, found[0], negated)
        raise self.error("expected a token, written <[number]> or <text>.", start)

    def bounds(self, nested: bool) -> tuple[int, int | None]:
        self.mark = self.at
        char = self.peek()
        self.at += 1
        if char != "{":
            return SHORT_BOUNDS[char]
        self.skip(lines=nested)
        low = self.count("the smallest number of repetitions", nested)
        high: int | None = low
        if self.peek() == ",":
            self.at += 1
            self.skip(lines=nested)
            high = None
            if self.peek() != "}":
                high = self.count("the largest number of repetitions", nested)
        if self.peek() != "}":
            raise self.error(f"expected ',' or '}}' to end the repetition.{self.hint()}")
        self.at += 1
        if high is not None and high < low:
            raise self.error(f"the bounds are reversed: {low} is more than {high}.", self.mark)
        return low, high

    def count(self, what: str, nested: bool) -> int:
        found = _DIGITS.match(self.source, self.at)
        if found is None:
            raise self.error(f"expected {what}, a whole number.")
        number = int(found[0]) if len(found[0]) < 10 else MAX_REPETITIONS + 1
        if number > MAX_REPETITIONS:
            raise self.error(
                f"at most {MAX_REPETITIONS} repetitions can be counted (llama.cpp's limit). "
                f"Leave the upper bound out for 'without end'.",
                end=found.end(),
            )
        self.at = found.end()
        self.skip(lines=nested)
        return number


_HINTS = {
    "_": " Rule names are made of letters, digits and '-'; llama.cpp refuses '_'.",
    "'": " Literals are written in double quotes.",
    ")": " There is no '(' that this ')' closes.",
    "|": " A rule goes on in the next line only after a '|', or inside parentheses.",
    "=": " A rule is written name ::= …",
    ":": " A rule is written name ::= …",
}
_ITEMS = "a literal, a character class, a rule name, '('"
