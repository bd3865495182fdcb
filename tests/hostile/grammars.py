"""Grammars that are wrong, absurd or without end."""

from __future__ import annotations

from llama_cpp import LlamaGrammar

from helpers.grammars import Grammar
from tests.hostile.base import MODEL, NO_END, Gives, Raises, Uses, error, make

use = Uses("grammars")


def _grammar(name: str, text: str, *words: str) -> None:
    use(name, Raises("GrammarError", *words))(lambda: make(grammar=text))


_grammar("unclosed string", 'root ::= "a', "line 1")
_grammar("unclosed bracket", 'root ::= ("a"', "line 1")
_grammar("no root", 'start ::= "a"', "root")
_grammar("unknown rule", "root ::= nothing", "nothing")
_grammar("left recursion", 'root ::= root "a" | "b"', "left")
_grammar("no way out", 'root ::= "ab" root', "matches no text")
_grammar("a hundred thousand brackets", "root ::= " + "(" * 10**5, "line 1")
_grammar("repetitions of repetitions", 'root ::= (("ab"{1000}){1000}){1000}', "repe")
_grammar("a million brackets", "root ::= " + "(" * 10**6, "1000009 characters")
_grammar("no text at all", "", "root")
_grammar("half a surrogate pair", 'root ::= "\ud800"', "line 1")


@use("unchecked LlamaGrammar", Raises("GrammarError", "line 1"))
def unchecked_llamagrammar() -> object:
    make(grammar=LlamaGrammar.from_string("root ::= (", verbose=False)).invoke("x")


@use("grammar and grammar_path", Raises("ValueError", "not both", "x.gbnf"))
def grammar_and_grammar_path() -> object:
    make(grammar='root ::= "a"', grammar_path="x.gbnf")


@use("missing grammar file", Raises("GrammarError", "missing.gbnf", "No such file"))
def missing_grammar_file() -> object:
    make(grammar_path="missing.gbnf")


@use("a model as grammar file", Raises("GrammarError", "UTF-8"))
def a_model_as_grammar_file() -> object:
    make(grammar_path=MODEL)


@use("a number as grammar", Raises("TypeError", "42", "GBNF"))
def a_number_as_grammar() -> object:
    make(grammar=42)


@use("bad grammar in a call, good one in the next", Gives(("GrammarError", "no")))
def bad_grammar_in_a_call_good_one_in_the_next() -> object:
    llm = make()
    first = error(lambda: llm.invoke("Yes or no?", grammar="root ::= ("))
    return first.split(":")[0], llm.invoke("Yes or no?", grammar='root ::= "no"')


@use("bad grammar set on a model", Gives(("GrammarError", "yes")))
def bad_grammar_set_on_a_model() -> object:
    llm = make()
    first = error(lambda: setattr(llm, "grammar", "root ::= ("))
    llm.grammar = 'root ::= "yes"'
    return first.split(":")[0], llm.invoke("x")


@use("a grammar without end", Gives(True))
def a_grammar_without_end() -> object:
    return make(grammar='root ::= "ab"+').invoke("x", logit_bias=NO_END).count("ab") > 1


@use("a grammar against the bias", Gives(("GrammarError", "yes")))
def a_grammar_against_the_bias() -> object:
    llm = make(grammar='root ::= "yes"')
    bans = {token: float("-inf") for token in range(49152)}
    result = error(lambda: llm.invoke("x", logit_bias=bans)), llm.invoke("x")
    return result[0].split(":")[0], result[1]


@use("a thousand definitions, each in the last", Gives((True, False)))
def a_thousand_definitions_each_in_the_last() -> object:
    defs: dict[str, object] = {
        f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(1000)
    }
    defs["d1000"] = {"type": "null"}
    grammar = Grammar.from_json_schema({"$ref": "#/$defs/d0", "$defs": defs})
    return grammar.matches('{"a": {"a": {}}}'), grammar.matches('{"a"}')


@use("a literal of 20,000 characters", Gives(True))
def a_literal_of_20_000_characters() -> object:
    text = "ab c" * 5000
    grammar = Grammar.from_string(f'root ::= "{text}"')
    return grammar.matches(text) and text.startswith(make(grammar=grammar).invoke("x"))


@use("an octree", Gives(False))
def an_octree() -> object:
    names = [f"c{i}" for i in range(8)]
    schema = {"type": "object", "properties": {n: {"$ref": "#"} for n in names}, "required": names}
    return Grammar.from_json_schema(schema).matches("{}")


@use("three thousand brackets", Gives(3000))
def three_thousand_brackets() -> object:
    return Grammar.from_json_schema({}).explain("[" * 3000).position
