"""Prompts of any kind and length."""

from __future__ import annotations

from helpers.engine import Engine, LoadOptions, Request
from tests.hostile.base import FRANCE, MODEL, Gives, Raises, Uses, error, make, works

use = Uses("prompts")


@use("empty", Gives("str"))
def empty() -> object:
    return type(make().invoke("")).__name__


@use("NUL", Gives("str"))
def nul() -> object:
    return type(make().invoke("a\0b")).__name__


@use("half a surrogate pair", Raises("ValueError", "surrogate", "character 1"))
def half_a_surrogate_pair() -> object:
    make().invoke("a\ud800b")


@use("a megabyte of one letter", Gives(("ContextOverflowError", True)))
def a_megabyte_of_one_letter() -> object:
    llm = make()
    result = error(lambda: llm.invoke("a" * 10**6)), works(llm)
    return result[0].split(":")[0], result[1]


@use("megabytes of other characters", Gives(({"ContextOverflowError"}, True)))
def megabytes_of_other_characters() -> object:
    llm = make()
    texts = [character * 10**6 for character in ("1", " ", "\n", "é", "a1 \n")]
    return {error(lambda text=text: llm.invoke(text)).split(":")[0] for text in texts}, works(llm)


@use("one token too many", Raises("ContextOverflowError", "64 tokens", "n_ctx="))
def one_token_too_many() -> object:
    llm = make(n_ctx=64)
    text = "a" + " a" * 63
    assert llm.get_num_tokens(text) == 64
    llm.invoke(text)


@use("just short enough", Gives(64))
def just_short_enough() -> object:
    answer = make(n_ctx=64, max_tokens=None).generate(["a" + " a" * 62]).generations[0][0]
    return answer.generation_info["token_usage"]["total_tokens"]


@use("one too long among others", Gives((["str", "ContextOverflowError", "str"], True)))
def one_too_long_among_others() -> object:
    answers = make().batch([FRANCE, "a " * 9999, FRANCE], return_exceptions=True)
    return [type(answer).__name__ for answer in answers], "Paris" in answers[2]


@use("thousands of special tokens", Raises("ContextOverflowError", "20000 tokens"))
def thousands_of_special_tokens() -> object:
    make().invoke("<|im_start|>" * 20_000)


@use("emoji made of many parts", Gives("str"))
def emoji_made_of_many_parts() -> object:
    return type(make().invoke("👩‍👩‍👧‍👦" * 20)).__name__


@use("bytes", Raises("NotImplementedError", "message type"))
def bytes() -> object:
    make().invoke(b"x")


@use("nothing", Raises("ValueError"))
def nothing() -> object:
    make().invoke(None)


@use(
    "tokens beyond the vocabulary",
    Gives(
        [
            *("ValueError", "ValueError", "ValueError", "TypeError", "TypeError"),
            "ValueError: The prompt is empty, and this model has no token to begin with.",
            "length",
        ]
    ),
)
def tokens_beyond_the_vocabulary() -> object:
    engine = Engine(LoadOptions(model_path=MODEL, n_ctx=64))

    def ask(*tokens):
        return error(lambda: engine.generate(Request(prompt=tokens, max_tokens=1)).finish_reason)

    result = [ask(1, wrong).split(":")[0] for wrong in (10**6, -1, 2**70, 1.5, "a")]
    result += [ask(), ask(1, 2)]
    return result


@use("counting the tokens of 2 GiB", Raises("ValueError", "bytes", "Split"))
def counting_the_tokens_of_2_gib() -> object:
    make(vocab_only=True).get_num_tokens("a" * 2**31)
