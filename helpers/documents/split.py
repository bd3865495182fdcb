"""Texts into passages of so many tokens, cut where it hurts least, and found again in the text."""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol

from langchain_core.documents import Document
from langchain_text_splitters import TextSplitter

from helpers.checks import check_range, check_text
from helpers.documents.places import (
    LINES,
    PARAGRAPHS,
    SENTENCES,
    WORDS,
    Section,
    characters,
    places,
    sections,
)
from helpers.prompt import Prompt

_LONGEST_TOKEN = 16
"""Characters that a token may have on average: what reaches further is not counted, but cut."""

_LARGEST = 2**18


class CountsTokens(Protocol):
    """What a splitter needs of a model: any of LangChain's language models has it."""

    def get_num_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        ...


class TokenSplitter(TextSplitter):
    """Cuts texts into passages whose tokens are counted by the model that will read them.

    A passage ends with a section of Markdown; a section that is too long is cut between
    paragraphs, else between sentences, lines, words, and at last characters. It is a piece of the
    text as it stands there, without blanks around it: `text[start:start + len(passage)]`.

    Example:
        >>> from helpers import LlamaCppEmbeddings, TokenSplitter, default_model
        >>> splitter = TokenSplitter(LlamaCppEmbeddings(model_path=default_model()), chunk_size=8)
        >>> splitter.split_text("The river is long. It flows to the sea. Nobody swims in it.")
        ['The river is long.', 'It flows to the sea.', 'Nobody swims in it.']

    Args:
        model: Counts the tokens: a `LlamaCpp`, `ChatLlamaCpp`, `LlamaCppEmbeddings`, or another
            model with `get_num_tokens`.
        chunk_size: Most tokens of a passage, 1 to 262,144; those that the vocabulary puts around
            a text count, too, and a prefix before documents does not.
        chunk_overlap: Most tokens that a passage repeats of the one before in the same section,
            0 to `chunk_size` - 1; None: an eighth of `chunk_size`. It is whole sentences that fill
            at least half of it, else whole lines, else whole words; nothing is repeated where the
            next sentence needs the room.

    Raises:
        TypeError: The model counts no tokens, or a number is none.
        ValueError: A number is out of range.
    """

    def __init__(
        self, model: CountsTokens, chunk_size: int = 256, chunk_overlap: int | None = None
    ) -> None:
        if not callable(getattr(model, "get_num_tokens", None)):
            raise TypeError(
                f"model={model!r} cannot count tokens. Give the model that will read the passages, "
                "for example LlamaCppEmbeddings(model_path=default_model())."
            )
        chunk_size = check_range("chunk_size", chunk_size, 1, _LARGEST, " tokens")
        if chunk_overlap is None:
            chunk_overlap = chunk_size // 8
        chunk_overlap = check_range(
            "chunk_overlap", chunk_overlap, 0, chunk_size - 1, " tokens (less than chunk_size)"
        )
        self._model = model
        super().__init__(chunk_size, chunk_overlap, self.count)

    def count(self, text: str) -> int:
        """How many tokens the model makes of a text; control tokens in it are plain text."""
        return self._model.get_num_tokens(Prompt([(text, False)]))

    def split_text(self, text: str) -> list[str]:
        """The passages of a text, as plain texts.

        Args:
            text: The text; one without any words has no passages.

        Raises:
            TypeError: It is no text.
            ValueError: It has a character of more than `chunk_size` tokens, or half a surrogate
                pair.
        """
        return [passage.page_content for passage in self.create_documents([text])]

    def create_documents(
        self, texts: list[str], metadatas: list[dict[Any, Any]] | None = None
    ) -> list[Document]:
        """The passages of some texts.

        Args:
            texts: The texts.
            metadatas: What is known of each text; its passages have it, too. From a `page`, pages
                are counted; `"cell_type": "code"` says that a text is no Markdown.

        Returns:
            Passages, whose metadata has `start` (the first character's place in the text),
            `tokens`, and where there are any `heading` ("Section › Part") and `page`, which a
            form feed ends.
        """  # noqa: RUF002
        if isinstance(texts, str):
            raise TypeError(f"texts={texts[:40]!r} is one text: give a list, or use split_text.")
        known = metadatas or [{} for _ in texts]
        return [
            passage
            for text, metadata in zip(texts, known, strict=True)
            for passage in self._passages(_checked(text), metadata)
        ]

    def _passages(self, text: str, metadata: dict[Any, Any]) -> Iterator[Document]:
        markdown = metadata.get("cell_type") != "code"
        page = metadata.get("page", 1 if "\f" in text else None)
        cutter, before = _Cutter(text, self), 0
        for section in sections(text) if markdown else [Section(0, len(text), "")]:
            for start, stop, tokens in cutter.passages(section):
                more = copy.deepcopy(metadata) | {"start": start, "tokens": tokens}
                if section.heading:
                    more["heading"] = section.heading
                if isinstance(page, int):
                    page += text.count("\f", before, start)
                    more["page"], before = page, start
                yield Document(page_content=text[start:stop], metadata=more)


def split_text(
    text: str | Document | Iterable[Document],
    model: CountsTokens,
    *,
    chunk_size: int = 256,
    chunk_overlap: int | None = None,
) -> list[Document]:
    r"""Cut texts into passages of at most so many tokens of a model.

    Args:
        text: A text, a document, or several.
        model: Counts the tokens, as in `TokenSplitter`.
        chunk_size: Most tokens of a passage.
        chunk_overlap: Most tokens that a passage repeats of the one before; None: an eighth.

    Returns:
        The passages in their order, as `TokenSplitter.create_documents` makes them.

    Raises:
        TypeError: It is none of these.
        ValueError: A number is out of range, or a character has more than `chunk_size` tokens.

    >>> model = LlamaCppEmbeddings(model_path=default_model())
    >>> passage, = split_text("# Rivers\nThe Han is long.", model)
    >>> passage.metadata
    {'start': 0, 'tokens': 8, 'heading': 'Rivers'}
    """
    splitter = TokenSplitter(model, chunk_size, chunk_overlap)
    if isinstance(text, str):
        return splitter.create_documents([text])
    documents = [text] if isinstance(text, Document) else text
    if not isinstance(documents, Iterable):
        raise TypeError(f"text={text!r} must be a text (str), a Document, or several Documents.")
    documents = list(documents)
    for document in documents:
        if not isinstance(document, Document):
            raise TypeError(f"{document!r:.60} is no Document: use Document(page_content=…).")
    return splitter.split_documents(documents)


class _Cutter:
    """Finds the passages of one text."""

    def __init__(self, text: str, splitter: TokenSplitter) -> None:
        self._text = text
        self._count = splitter.count
        self._size = splitter._chunk_size
        self._overlap = splitter._chunk_overlap
        self._characters_per_token = 4.0  # of what was counted last: where to look first

    @cached_property
    def _paragraphs(self) -> list[int]:
        return places(self._text, PARAGRAPHS)

    @cached_property
    def _levels(self) -> list[list[int]]:
        return [places(self._text, pattern) for pattern in (SENTENCES, LINES, WORDS)]

    def passages(self, section: Section) -> Iterator[tuple[int, int, int]]:
        """Start, stop and tokens of each passage of a section."""
        part = self._text[section.start : section.stop]
        stop = section.start + len(part.rstrip())
        start = end = section.start + len(part) - len(part.lstrip())
        while end < stop:
            start, end, tokens = self._next(start, end, stop)
            yield start, start + len(self._text[start:end].rstrip()), tokens
            if blanks := WORDS.match(self._text, end):
                end = blanks.end()
            start = self._repeated(start, end)

    def _next(self, repeated: int, start: int, stop: int) -> tuple[int, int, int]:
        """The passage from one of two places, to one behind both: where it ends, and its tokens."""
        for level in range(5):
            firsts = [repeated]
            if repeated < start and self._between(level, start - 1, start):
                firsts.append(start)  # a whole sentence, line or word may need the room
            for first in firsts:
                reach = min(first + self._reach(self._size), stop)
                ends = self._between(level, start, reach)
                if reach == stop and ends[-1:] != [stop]:
                    ends.append(stop)
                if found := self._furthest(first, ends, self._size):
                    end, tokens = found
                    return first, *(self._paragraph(first, start, end, stop) or (end, tokens))
        one = self._text[start]
        raise ValueError(
            f"{one!r} (character {start} of the text) has {self._count(one)} tokens with this "
            f"model, more than chunk_size={self._size}, and a character is not cut. Set a larger "
            "chunk_size."
        )

    def _paragraph(self, first: int, start: int, end: int, stop: int) -> tuple[int, int] | None:
        """The last end of a paragraph before `end`, if that makes no passage of less than half."""
        at = bisect_right(self._paragraphs, end) - 1
        if end == stop or at < 0 or self._paragraphs[at] <= max(start, (first + end) // 2):
            return None
        tokens = self._tokens(first, self._paragraphs[at])
        return (self._paragraphs[at], tokens) if tokens <= self._size else None

    def _repeated(self, start: int, end: int) -> int:
        """Where the next passage begins, to repeat the end of this one."""
        if not self._overlap:
            return end
        low = max(start, end - self._reach(self._overlap))
        for level in range(4):
            starts = self._between(level, low if level < 3 else start, end - 1)[::-1]
            starts = [at for at in starts if not self._text[at].isspace()]
            found = self._furthest(end, starts, self._overlap)
            if found and (found[1] * 2 >= self._overlap or level > 1):
                return found[0]
            if level == 2 and starts:
                break  # the last word alone is longer
        return end

    def _reach(self, tokens: int) -> int:
        return _LONGEST_TOKEN * (tokens + 4)

    def _between(self, level: int, low: int, high: int) -> list[int]:
        """Places of a level: sentences, lines, words, characters, code points."""
        if level > 2:
            return characters(self._text, low, high, whole=level == 3)
        known = self._levels[level]
        return known[bisect_right(known, low) : bisect_right(known, high)]

    def _tokens(self, one: int, other: int) -> int:
        return self._count(self._text[min(one, other) : max(one, other)].rstrip())

    def _furthest(self, here: int, ends: list[int], most: int) -> tuple[int, int] | None:
        """The last of some places, the nearest first, up to which there are so many tokens.

        The text up to a place is counted, and the next place to look at computed from what was
        found: two or three counts find it.
        """
        distances = [abs(end - here) for end in ends]
        best, low, high = None, 0, len(ends)
        for turn in range(64):
            if low >= high:
                break
            guess = bisect_left(distances, most * self._characters_per_token, low, high - 1)
            if turn > 3:  # a text of uneven density: halve what is left
                guess = (low + high) // 2
            tokens = self._tokens(here, ends[guess])
            self._characters_per_token = distances[guess] / max(tokens, 1)
            if tokens <= most:
                best, low = (ends[guess], tokens), guess + 1
            else:
                high = guess
        return best


def _checked(value: Any) -> str:
    text: str = check_text("text", value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text has half of a surrogate pair at character {error.start}, which no tokenizer "
            'can read. Repair it with text.encode("utf-8", "replace").decode().'
        ) from None
    return text
