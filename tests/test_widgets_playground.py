"""The grammar playground: its logic without widgets, then the widget as its user works it."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from helpers import Grammar, GrammarError, HelpersError, LlamaCpp, default_model
from helpers.grammars import TokenChoice, TracedToken, trace_choices
from helpers.plots import plot_choices, plot_rules
from helpers.widgets import GrammarPlayground
from helpers.widgets._grammar_trials import (
    check_grammar,
    generate_traced,
    texts_table,
    tokens_table,
    try_texts,
    unescape,
)

GRAMMARS = Path(__file__).parent.parent / "grammars"
YES_NO = 'root ::= "yes" | "no"'


def said(*steps: tuple[str, dict[str, float]]) -> dict[str, list[Any]]:
    """Log probabilities as the engine gives them, from (token, {choice: probability})."""
    return {
        "tokens": [token for token, _ in steps],
        "token_logprobs": [math.log(top[token]) for token, top in steps],
        "top_logprobs": [{k: math.log(p) for k, p in top.items()} for _, top in steps],
    }


class FakeModel:
    """Answers `generate` from a list, and can fail instead."""

    def __init__(self, text: str = "yes", error: BaseException | None = None) -> None:
        self.text, self.error, self.calls = text, error, []  # type: ignore[var-annotated]

    def generate(self, prompts: list[str], **options: Any) -> Any:
        self.calls.append((prompts, options))
        if self.error:
            raise self.error
        warnings.warn("careful <now>", UserWarning, stacklevel=2)
        info = {"finish_reason": "stop", "logprobs": said((self.text, {self.text: 0.5}))}
        generation = SimpleNamespace(text=self.text, generation_info=info)
        return SimpleNamespace(generations=[[generation]])


# --- trace ---------------------------------------------------------------------------------------


def test_refused_choices_are_those_that_cannot_continue_the_text() -> None:
    first, second = trace_choices(
        Grammar.from_string(YES_NO),
        said(("ye", {"The": 0.6, "ye": 0.2, "no": 0.1, "": 0.1}), ("s", {"s": 0.9, "ah": 0.1})),
    )
    assert [(c.text, c.allowed) for c in first.choices] == [
        ("The", False),
        ("ye", True),
        ("no", True),
        ("", False),
    ]
    assert first.overruled and not second.overruled
    assert first.probability == pytest.approx(0.2) and first.choices[0].probability > 0.5
    assert [choice.text for choice in second.refused] == ["ah"]


def test_the_end_is_allowed_where_the_text_is_complete() -> None:
    grammar = Grammar.from_string("root ::= [0-9]+")
    one, two = trace_choices(grammar, said(("4", {"": 0.9, "4": 0.1}), ("2", {"": 0.9, "2": 0.1})))
    assert one.choices[0].allowed is False
    assert two.choices[0].allowed is True


def test_a_schema_is_traced_within_its_strings() -> None:
    grammar = Grammar.from_json_schema({"type": "object", "properties": {"a": {"type": "string"}}})
    steps = said(
        ('{"a": "', {'{"a": "': 0.5, "Sure": 0.5}),
        ("b", {"b": 0.5, "\n": 0.4}),
        ('"}', {'"}': 0.5, '"]': 0.4}),
    )
    tokens = trace_choices(grammar, steps)
    assert [[c.text for c in token.refused] for token in tokens] == [["Sure"], ["\n"], ['"]']]


def test_parts_of_characters_are_unknown_and_the_rest_is_found_again() -> None:
    grammar = Grammar.from_string('root ::= "é" [a-c]+')
    steps = said(
        ("�", {"�": 0.5, "x": 0.5}),
        ("�", {"�": 0.5, "x": 0.5}),
        ("b", {"b": 0.5, "x": 0.5}),
    )
    first, second, third = trace_choices(grammar, steps, "éb")
    assert [c.allowed for c in first.choices] == [None, False]
    assert [c.allowed for c in second.choices] == [None, None]
    assert [c.allowed for c in third.choices] == [True, False]
    without_text = trace_choices(grammar, steps)
    assert [c.allowed for c in without_text[2].choices] == [None, None]


def test_grammars_that_name_tokens_are_refused_in_words() -> None:
    with pytest.raises(GrammarError, match="cannot be traced"):
        trace_choices(Grammar.from_string("root ::= <think>"), said(("a", {"a": 1.0})))


# --- drawings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GRAMMARS.glob("*.gbnf")), ids=lambda path: path.stem)
def test_every_grammar_of_the_suite_can_be_drawn(path: Path) -> None:
    grammar = Grammar.from_file(path)
    drawing = plot_rules(grammar)
    root = ElementTree.fromstring(drawing.svg)
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert drawing.names == tuple(grammar.rules or {})
    assert set(drawing.names) <= set(words)
    assert float(root.attrib["width"]) > 40 and float(root.attrib["height"]) > 40


def test_a_drawing_shows_literals_classes_repetitions_and_is_escaped() -> None:
    drawing = plot_rules(Grammar.from_string('root ::= "<b>&" [0-9]{2,5} "한\\n"?'))
    words = "".join(ElementTree.fromstring(drawing.svg).itertext())
    for word in ('"<b>&"', "[0-9]", "2 to 5 times", '"한\\n"'):
        assert word in words
    assert drawing._repr_svg_() == drawing.svg and "root" in repr(drawing)


def test_rules_can_be_chosen_and_wrong_names_are_named() -> None:
    grammar = Grammar.from_file(GRAMMARS / "json.gbnf")
    assert plot_rules(grammar, "array", "root").names == ("array", "root")
    with pytest.raises(ValueError, match="no rule 'arr'"):
        plot_rules(grammar, "arr")


def test_large_grammars_are_drawn_in_part_and_say_so() -> None:
    rules = "".join(f'r{n} ::= "{n}"\n' for n in range(200))
    grammar = Grammar.from_string(
        "root ::= " + " | ".join(f"r{n}" for n in range(200)) + "\n" + rules
    )
    drawing = plot_rules(grammar)
    assert len(drawing.names) < 201 and "more rules" in drawing.svg


def test_a_plot_of_choices_can_be_read_without_colours() -> None:
    token = TracedToken("yes", 0.2, (TokenChoice("The", 0.7, False), TokenChoice("yes", 0.2, True)))
    figure = plot_choices(token, title="One token")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2]
    notes = [text.get_text() for text in axes.texts]
    assert "✗ refused" in notes[0] and "✓ allowed, taken" in notes[1]
    assert to_hex(axes.patches[0].get_facecolor()) != to_hex(axes.patches[1].get_facecolor())
    assert "'The' refused" in repr(figure)
    with pytest.raises(ValueError, match="logprobs"):
        plot_choices(TracedToken("a", 1.0, ()), title="none")


# --- logic ---------------------------------------------------------------------------------------


def test_an_error_has_its_place_and_a_caret() -> None:
    checked = check_grammar('root ::= "yes" |\n  ) "no"')
    assert checked.grammar is None and checked.error is not None
    assert checked.error.line == 2 and checked.error.column == 3
    assert re.search(r"line 2, column 3", checked.message)
    assert checked.message.splitlines()[-1].strip() == "^"


def test_a_correct_grammar_counts_its_rules_and_tells_its_warnings() -> None:
    checked = check_grammar('root ::= "a"\nidle ::= "b"')
    assert checked.grammar is not None and checked.message.startswith("✓ a grammar of 2 rules")
    assert "idle" in checked.message


def test_texts_are_tried_line_by_line() -> None:
    tried = try_texts(Grammar.from_string('root ::= "a\\nb" | "c"'), "a\\nb\n\nc\nd\n")
    assert [(text, found.matches) for text, found in tried] == [
        ("a\nb", True),
        ("c", True),
        ("d", False),
    ]
    table = texts_table(tried)
    assert table.count("✓") == 2 and table.count("✗") == 1 and "line 1, column 1" in table


def test_unescape_leaves_other_backslashes() -> None:
    assert unescape("a\\") == "a\\" and unescape(r"\d\\\t") == "\\d\\\t"


def test_tables_escape_what_they_show() -> None:
    token = TracedToken("<b>", 0.0001, (TokenChoice("<i>", 0.9, False), TokenChoice("", 0.1, None)))
    table = tokens_table((token,))
    assert "<b>" not in table and "<i>" not in table and "✗ overruled" in table
    assert "&lt; 0.1 %" in table or "< 0.1 %" in table


# --- the widget ----------------------------------------------------------------------------------


def test_the_grammar_is_checked_at_every_change() -> None:
    playground = GrammarPlayground(grammar=YES_NO, texts="yes\nmaybe")
    assert playground.checked.error is None and "✓ a grammar" in playground.status.value
    assert playground.tried.value.count("✓ matches") == 1
    assert "<svg" in playground.drawing.value
    playground.source.value = YES_NO + " |\n  )"
    assert playground.checked.error.line == 2
    assert "line 2, column 3" in playground.status.value
    assert "waits" in playground.tried.value and "waits" in playground.drawing.value
    playground.source.value = 'root ::= "maybe"'
    assert playground.tried.value.count("✓ matches") == 1
    playground.texts.value = "maybe\nmaybe"
    assert playground.tried.value.count("✓ matches") == 2
    assert playground.source.continuous_update and playground.texts.continuous_update


def test_the_button_generates_and_shows_text_tokens_and_warnings() -> None:
    model = FakeModel("yes")
    playground = GrammarPlayground(model, YES_NO, prompt="Is it?", max_tokens=7)  # type: ignore[arg-type]
    playground.generate_button.click()
    assert playground.failure is None and playground.result.text == "yes"
    ((prompts, options),) = model.calls
    assert prompts == ["Is it?"] and options["max_tokens"] == 7
    assert options["grammar"] is playground.checked.grammar
    shown = playground.output.value
    assert "✓ complete" in shown and "<table>" in shown and "careful &lt;now&gt;" in shown


@pytest.mark.parametrize("error", [HelpersError("no room <here>"), RuntimeError("no room <here>")])
def test_failures_are_shown_and_kept(error: Exception) -> None:
    playground = GrammarPlayground(FakeModel(error=error), YES_NO)  # type: ignore[arg-type]
    playground.generate_button.click()
    assert playground.failure is error and playground.result is None
    assert "no room &lt;here&gt;" in playground.output.value
    assert not playground.generate_button.disabled
    assert ("RuntimeError" in playground.output.value) == isinstance(error, RuntimeError)


def test_an_interrupt_leaves_the_button_usable() -> None:
    playground = GrammarPlayground(FakeModel(error=KeyboardInterrupt()), YES_NO)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        playground.generate()
    assert not playground.generate_button.disabled and "Interrupt" in playground.output.value


def test_without_a_model_or_with_a_wrong_grammar_it_says_so() -> None:
    playground = GrammarPlayground(grammar="root ::=")
    assert playground.generate_button.disabled and "no model" in playground.output.value
    assert playground.generate() is None and "no model" in str(playground.failure)
    broken = GrammarPlayground(FakeModel(), "root ::= oops")  # type: ignore[arg-type]
    assert broken.generate() is None and "Mend the grammar" in broken.output.value


def test_trying_texts_on_grammars_that_name_tokens_shows_why_not() -> None:
    playground = GrammarPlayground(grammar="root ::= <think>", texts="a")
    assert isinstance(playground.failure, GrammarError) and "✗" in playground.tried.value


def test_it_opens_files_and_grammars() -> None:
    path = GRAMMARS / "yes_no.gbnf"
    assert GrammarPlayground(grammar=path).source.value == path.read_text("utf-8")
    assert GrammarPlayground(grammar=Grammar.from_string(YES_NO)).source.value == YES_NO


# --- with the model ------------------------------------------------------------------------------


def test_with_the_model_refusals_are_told_as_they_were() -> None:
    grammar = Grammar.from_file(GRAMMARS / "yes_no.gbnf")
    with LlamaCpp(model_path=default_model(), n_gpu_layers=0, temperature=0, n_ctx=512) as llm:
        traced = generate_traced(llm, "Is the sky blue? Answer:", grammar, logprobs=8)
        playground = GrammarPlayground(llm, GRAMMARS / "list.gbnf", max_tokens=1)
        cut_off = playground.generate()
    assert traced.text in ("yes", "no") and traced.finish_reason == "stop"
    assert traced.tokens[0].overruled and traced.overruled >= 1
    taken = [choice for choice in traced.tokens[0].choices if choice.text == traced.tokens[0].text]
    assert taken[0].allowed
    assert cut_off is not None and cut_off.finish_reason == "length"
    assert any("max_tokens" in note for note in cut_off.notes)
    assert "✗ cut off" in playground.output.value
