"""GBNF is read as llama.cpp reads it, faults are found at their place, and nothing hangs."""

from __future__ import annotations

import pickle
import random
import time

import pytest

from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.grammars.gbnf.parser import parse
from helpers.grammars.gbnf.syntax import show
from helpers.grammars.guidance import byte_tokenizer, compile_guidance


def by_guidance(grammar: Grammar, text: str) -> bool:
    matcher = compile_guidance(grammar.guidance())
    data = byte_tokenizer().tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


LANGUAGES = [
    # greedy lexemes would change these
    ('root ::= [a-z]+ "x"', ["abx", "xx"], ["x", "abc", ""]),
    ('root ::= ("a" | "ab") "bc"', ["abc", "abbc"], ["ab", "abcc"]),
    ('root ::= [^b]* "ab" | "abab"', ["ab", "xaab", "abab"], ["aba"]),
    # notation
    ('root ::= "a"{2} "b"{1,} "c"{0,2} "d"?', ["aab", "aabbccd"], ["ab", "aabccc"]),
    ('root ::= [\\]\\-\\[^"a-c] "\\"\\\\"', [']"\\', '-"\\', 'b"\\'], ['d"\\']),
    ("root ::= [a-] [-a] [^-]", ["a-x", "-a\n"], ["b-x", "aa-"]),
    ('root ::= "\\x41\\u00e9\\U0001F600\\t"', ["Aé😀\t"], ["A"]),
    ("root ::= . .", ["\n😀", "ab"], ["a", "abc"]),
    ('root ::= (\n "a" # why\n |\n "b")+\n', ["abba"], ["", "c"]),
    ('root ::= a |\n  "b"\na ::= "" | "c" a', ["", "b", "ccc"], ["bc"]),
    ('root ::= "a"*+? "b"', ["b", "aab"], ["a"]),
    ('root ::= ("ab" | )* "c"', ["c", "ababc"], ["aabc"]),
    ('root ::= "ab"* "c"', ["ababc", "c"], ["abbc"]),
    # recursion and ambiguity
    ('root ::= "a" root "b" | "a" root "c" | "d"', ["aadbc", "d"], ["aadb", "aa"]),
    ('root ::= "a" root root | "b"', ["abb", "aabbb"], ["ab"]),
    ('root ::= x x x\nx ::= y?\ny ::= "q" ("," "q")?', ["", "q,qq", "qqq,q"], ["qqqq,"]),
    ('root ::= "a" (root "b")* "c"?', ["a", "aaacbcb", "ac"], ["ab c"]),
]


@pytest.mark.parametrize(("text", "inside", "outside"), LANGUAGES)
def test_the_language_is_the_written_one(text: str, inside: list[str], outside: list[str]) -> None:
    grammar = Grammar.from_string(text)
    again = Grammar.from_string(
        "".join(f"{name} ::= {show(node)}\n" for name, node in parse(text).rules.items())
    )
    for sample in inside + outside:
        assert grammar.matches(sample) is (sample in inside), grammar.explain(sample)
        assert again.matches(sample) is (sample in inside)
        assert by_guidance(grammar, sample) is (sample in inside)
    assert grammar.gbnf == text


FAULTS = [
    ('root ::= "a" foo', 1, 14, "'foo' is not defined"),
    ('root ::= item\nitems ::= "a"', 1, 10, "Did you mean 'items'"),
    ('rot ::= "a"', 1, 1, "rule named 'root'"),
    ("", 1, 1, "no rules at all"),
    ("# only a comment", 1, 1, "no rules at all"),
    ("root ::= [z-a]", 1, 11, "runs backwards"),
    ("root ::= []", 1, 10, "at least one character"),
    ("root ::= [^]", 1, 10, "at least one character"),
    ("root ::= [a", 1, 10, "expected ']'"),
    ('root ::= "abc', 1, 10, "to end this literal"),
    ('root ::= ("a"\n  "b"', 2, 6, "closes the '(' of line 1"),
    ('root ::= "a")', 1, 13, "no '('"),
    ('root ::= "a"\n  | "b"', 2, 3, "only after a '|'"),
    ('root := "a"', 1, 6, "expected '::='"),
    ('root ::= a_b\na ::= "x"', 1, 11, "refuses '_'"),
    ("root ::= 'x'", 1, 10, "double quotes"),
    ("root ::= *", 1, 10, "nothing to repeat"),
    ('root ::= ""*', 1, 12, "nothing to repeat"),
    ('root ::= "a"{3,2}', 1, 13, "reversed"),
    ('root ::= "a"{x}', 1, 14, "whole number"),
    ('root ::= "a"{1', 1, 15, "expected ',' or '}'"),
    ('root ::= "a"{2001}', 1, 14, "at most 2000"),
    ('root ::= "a"{1,99999999999999999999999}', 1, 16, "at most 2000"),
    ('root ::= "a"{100}{100}', 1, 18, "10000 copies"),
    ('root ::= "a"' + "*" * 9, 1, 21, "too many repetitions"),
    ('root ::= "\\q"', 1, 11, "unknown escape"),
    ('root ::= "\\u12"', 1, 11, "4 hexadecimal digits"),
    ('root ::= "\\U00110000"', 1, 11, "beyond U+10FFFF"),
    ('root ::= "\\x00"', 1, 11, "cannot appear in a text"),
    ("root ::= [\\x00]", 1, 1, "matches no text"),
    ('root ::= "a" root', 1, 1, "matches no text"),
    ('root ::= "a" | b\nb ::= "b" b', 2, 1, "'b' matches no text"),
    ('root ::= root "a" | "b"', 1, 10, "root -> root"),
    ('root ::= x "b" | "c"\nx ::= y y root\ny ::= "" | "b"', 2, 11, "root -> x -> root"),
    ('root ::= (a | "x") "y"\na ::= b?\nb ::= a "z"', 3, 7, "a -> b -> a"),
    ('root ::= "a"\nroot ::= "b"', 2, 1, "defined twice, first in line 1"),
    ('root ::=\nfoo ::= "a"', 2, 1, "start a line of its own"),
    ("root ::= <[12>", 1, 10, "expected a token"),
    ("root ::= <[99999999999]>", 1, 10, "no vocabulary"),
    ("root ::= !x", 1, 10, "expected a token"),
    ('root ::= "a\x00b"', 1, 12, "U+0000"),
    ('root ::= "\ud800"', 1, 11, "U+D800"),
    ("root ::= " + "(" * 101 + '"a"' + ")" * 101, 1, 110, "nested more than 100"),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), FAULTS)
def test_faults_are_found_at_their_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Grammar.from_string(text)
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)
    message, shown, caret = str(caught.value).rsplit("\n", 2)
    assert message.startswith(f"line {line}, column {column}: ")
    if column <= 60:
        assert caret.index("^") == 4 + column - 1 and len(shown) >= 4
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.line, copy.column, str(copy)) == (line, column, str(caught.value))


def test_unused_rules_are_warnings() -> None:
    grammar = Grammar.from_string('root ::= "a"\n\nlost ::= "b"\n')
    assert grammar.warnings == ("line 3: rule 'lost' is never used.",)


def test_explain_says_where_and_what() -> None:
    grammar = Grammar.from_string('root ::= "name: " [a-z]+ "\\n" ("yes" | "no")')
    found = grammar.explain("name: ada\nyep")
    assert (found.matches, found.line, found.column, found.position) == (False, 2, 3, 12)
    assert found.expected == ('"s"',)
    assert 'expected "s" but found "p"' in str(found) and str(found).endswith("\n      ^")
    early = grammar.explain("name: ada")
    assert early.expected == ('"\\n"', "[a-z]") and "the end of the text" in early.message
    assert "the end" in grammar.explain("name: a\nno!").expected
    assert grammar.explain("name: a\nno").matches


def test_long_texts_are_judged_in_good_time() -> None:
    right = Grammar.from_string('root ::= [a-z] root | "."')
    nested = Grammar.from_string('root ::= "(" root* ")"')
    start = time.perf_counter()
    assert right.matches("a" * 20_000 + ".")
    assert nested.matches("(" * 3000 + ")" * 3000)
    assert not nested.matches("(" * 3000 + ")" * 2999)
    assert time.perf_counter() - start < 20


def test_a_grammar_can_be_pickled() -> None:
    grammar = Grammar.from_string("root ::= [a-c]+ <|im_end|>?")
    copy = pickle.loads(pickle.dumps(grammar))
    assert copy.gbnf == grammar.gbnf and copy.rules == grammar.rules


HOSTILE = [
    'root ::= ((("a"{1000}){1000}){1000}){1000}',
    'root ::= ("a"{0,2000} "b"{0,2000}){0,2000}',
    "root ::= " + " ".join('"a"{2000}' for _ in range(500)),
    "\n".join(f"r{i} ::= r{i + 1}{{2000}}" for i in range(50)) + '\nr50 ::= "a"\nroot ::= r0',
    "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)) + '\nr60 ::= "a"\nroot ::= r0',
    "root ::= " + "(" * 50_000,
    "root ::= " + '"a" | ' * 20_000,
    "root ::= " + "a" * 100_000,
    "root ::= " + '"' + "a" * 300_000 + '"',
    "root ::= [" + "a-z" * 50_000 + "]",
    "root ::= " + '"a"?' * 5_000,
    "root ::= (" + '"a"* ' * 2_000 + ")*",
    "x" * 500_000,
    "\n" * 300_000,
    "#" * 300_000,
    "root ::= " + " | ".join(f'"{"a" * i}"' for i in range(500)),
    "\n".join(f'r{i} ::= "a" r{i + 1} | r{i + 1}' for i in range(3000))
    + '\nr3000 ::= "b"\nroot ::= r0',
    "\n".join(f'r{i} ::= "x"' for i in range(15_000)) + '\nroot ::= "a"',
    'root ::= "a"{1000} ' * 2 + "{1000}",
    "root ::= ." * 1000,
    "root ::= <" + "x" * 1000 + ">",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_grammars_end_soon(text: str) -> None:
    start = time.perf_counter()
    try:
        grammar = Grammar.from_string(text)
    except GrammarError as error:
        assert len(str(error)) < 3000
    else:
        assert grammar.rules
    # A bound for a machine under load; alone they take a tenth of it.
    assert time.perf_counter() - start < 5


PIECES = [
    *["root", "a", "b", "item", " ::= ", "\n", " ", "|", "(", ")", "*", "+", "?", "{2}", "{1,3}"],
    *["{0,}", "{", "}", ",", '"a"', '"', '"b\\n"', "[a-z]", "[^x]", "[", "]", "-", "^", ".", "\\"],
    *[
        "\\x41",
        "\\u",
        "<[5]>",
        "<x>",
        "!",
        "#",
        "\r",
        "\t",
        "é",
        "😀",
        "\0",
        "2000",
        "99",
        "_",
        "::",
    ],
]
SEEDS = [text for text, _, _ in LANGUAGES] + [
    'root ::= "{" ws (pair ("," ws pair)*)? "}"\npair ::= str ":" ws val\nval ::= str | root\n'
    'str ::= "\\"" [^"\\\\]* "\\""\nws ::= [ \\n]{0,20}\n'
]


def mutated(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return "root ::= " + "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 30)))
    text = rng.choice(SEEDS)
    for _ in range(rng.randint(1, 5)):
        at = rng.randint(0, len(text))
        kind = rng.random()
        if kind < 0.4:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif kind < 0.7:
            text = text[:at] + text[at + rng.randint(1, 4) :]
        else:
            other = rng.choice(SEEDS)
            text = text[:at] + other[rng.randint(0, len(other)) :][:20] + text[at:]
    return text


def test_five_thousand_mutated_grammars_end_in_a_grammar_or_an_error() -> None:
    rng = random.Random(6)
    made = refused = 0
    slowest = 0.0
    for _ in range(5000):
        text = mutated(rng)
        start = time.perf_counter()
        try:
            grammar = Grammar.from_string(text)
        except GrammarError as error:
            refused += 1
            assert error.line and error.column, (text, error)
        else:
            made += 1
            assert grammar.rules
        slowest = max(slowest, time.perf_counter() - start)
    assert made > 300 and refused > 2000
    assert slowest < 5, "a bound for a machine under load; alone it is some milliseconds"


def random_text(grammar: Grammar, rng: random.Random) -> str | None:
    """A text that llguidance would let a model write, byte by byte."""
    import numpy as np

    matcher = compile_guidance(grammar.guidance())
    written = b""
    for _ in range(40):
        if matcher.is_accepting() and rng.random() < 0.2:
            break
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        choices = [int(code) for code in np.nonzero(bits[:256])[0]]
        if not choices:
            break
        code = rng.choice(choices)
        assert matcher.consume_tokens(byte_tokenizer().tokenize_bytes(bytes([code])))
        written += bytes([code])
    return written.decode() if matcher.is_accepting() else None


def test_texts_written_under_mutated_grammars_match_them() -> None:
    rng = random.Random(7)
    checked = 0
    while checked < 150:
        try:
            grammar = Grammar.from_string(mutated(rng))
        except GrammarError:
            continue
        if "<" in str(grammar.gbnf):
            continue
        text = random_text(grammar, rng)
        if text is not None:
            assert grammar.matches(text), (grammar.gbnf, text)
            checked += 1
        for _ in range(5):
            other = "".join(rng.choice("abcx.\n") for _ in range(rng.randint(0, 5)))
            assert grammar.matches(other) == by_guidance(grammar, other), (grammar.gbnf, other)
