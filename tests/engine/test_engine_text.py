from __future__ import annotations

import itertools
import random

import pytest

from helpers.engine.text import TextStream


def feed(pieces: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    shown = [stream.feed(piece) for piece in pieces]
    return [*shown, stream.finish()], stream.stopped


def splits(raw: bytes) -> itertools.chain[list[bytes]]:
    """The bytes in two, in three, and each alone."""
    two = ([raw[:i], raw[i:]] for i in range(len(raw) + 1))
    three = (
        [raw[:i], raw[i:j], raw[j:]]
        for i, j in itertools.combinations(range(len(raw) + 1), 2)
    )  # fmt: skip
    return itertools.chain(two, three, [[bytes([byte]) for byte in raw]])


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], "one EN two"),
        ("one EEND", ["END"], "one E"),
        ("aaab", ["aab"], "a"),
        ("xabcabd!", ["abd", "abcd"], "xabc"),
        ("END", ["END"], ""),
        ("one EN", ["END"], "one EN"),
        ("both ab and abc", ["abc", "ab"], "both "),
        ("줄바꿈\n\n다음", ["\n\n"], "줄바꿈"),
        ("말 끝🦙 뒤", ["끝🦙"], "말 "),
        ("nothing to stop", [], "nothing to stop"),
    ],
)
def test_no_split_lets_a_stop_string_through(text: str, stop: list[str], expected: str) -> None:
    for pieces in splits(text.encode()):
        shown, stopped = feed(pieces, stop)
        assert "".join(shown) == expected, pieces
        assert stopped == (expected != text)


@pytest.mark.parametrize("text", ["é", "한국어", "🦙", "👩‍👩‍👧‍👦 and 日本"])
def test_no_split_breaks_a_character(text: str) -> None:
    for pieces in splits(text.encode()):
        shown, _ = feed(pieces, [])
        assert "".join(shown) == text
        assert "�" not in "".join(shown)


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    stream = TextStream(["###", "\nHuman"])
    assert stream.feed(b"Hello") == "Hello"
    assert stream.feed(b" #") == " "
    assert stream.feed(b"1\n") == "#1"
    assert stream.feed(b"Hu") == ""
    assert stream.feed(b"ge") == "\nHuge"
    assert stream.feed(b"\xf0\x9f") == ""
    assert stream.feed(b"\xa6\x99") == "🦙"


def test_half_a_character_at_the_end_is_shown_as_what_it_is() -> None:
    stream = TextStream()
    assert stream.feed(b"a\xf0\x9f") == "a"
    assert stream.finish() == "�"
    assert feed([b"\xff\xfea"], [])[0] == ["��a", ""]


def test_nothing_comes_after_the_stop() -> None:
    stream = TextStream(["."])
    assert stream.feed(b"a. b") == "a"
    assert stream.feed(b" c") == "" == stream.finish()
    assert stream.stopped


def test_random_texts_stop_where_the_first_stop_string_begins_to_be_complete() -> None:
    draw = random.Random(5)
    for _ in range(2000):
        text = "".join(draw.choice("ab") for _ in range(draw.randrange(12)))
        stop = ["".join(draw.choice("ab") for _ in range(draw.randrange(1, 4))) for _ in range(2)]
        shown, stopped = feed([bytes([byte]) for byte in text.encode()], stop)
        # Byte by byte, the string that is complete first wins; of two at once, the longer one.
        ends = [(i + len(s), i) for s in stop for i in range(len(text)) if text.startswith(s, i)]
        expected = text[: min(ends)[1]] if ends else text
        assert "".join(shown) == expected, (text, stop)
        assert stopped == bool(ends)
