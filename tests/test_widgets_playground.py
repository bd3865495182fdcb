"""The grammar playground: its logic without widgets, then the widget as its user works it."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from helpers import ContextOverflowError, Grammar, GrammarError, LlamaCpp, default_model
from helpers.grammars import TokenChoice, TracedToken, trace_choices
from helpers.plots import plot_choices, plot_rules
from helpers.widgets import GrammarPlayground
from helpers.widgets.grammar_trials import (
    check_grammar,
    generate_traced,
    texts_table,
    tokens_table,
    try_texts,
    unescape,
)

GRAMMARS = Path(__file__).parent.parent / "grammars"
HEAD = '<pre class="generated">'
YES_NO = 'root ::= "yes" | "no"'


def said(*steps: tuple[str, dict[str, float]]) -> dict[str, list[Any]]:
    """Log probabilities as the engine gives them, from (token, {choice: probability})."""
    return {
        "tokens": [token for token, _ in steps],
        "token_logprobs": [math.log(top[token]) for token, top in steps],
        "top_logprobs": [{k: math.log(p) for k, p in top.items()} for _, top in steps],
    }


@pytest.fixture(scope="module")
def llm() -> Iterator[LlamaCpp]:
    with LlamaCpp(model_path=default_model(), n_gpu_layers=0, temperature=0, n_ctx=512) as made:
        yield made


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
    assert (first.kept, second.kept) == (pytest.approx(0.3), pytest.approx(0.9))


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


def test_parts_of_characters_are_judged_by_their_bytes() -> None:
    grammar = Grammar.from_string('root ::= "é" [a-c]+')
    steps = said(
        (r"bytes:\xc3", {r"bytes:\xc3": 0.5, "x": 0.3, r"bytes:\xf0\x9f": 0.2}),
        (r"bytes:\xa9", {r"bytes:\xa9": 0.5, r"bytes:\xa8": 0.3, "x": 0.2}),
        ("b", {"b": 0.5, "x": 0.3, "token_id:7": 0.2}),
    )
    first, second, third = trace_choices(grammar, steps)
    assert [c.allowed for c in first.choices] == [True, False, False]
    assert [c.allowed for c in second.choices] == [True, False, False]
    assert [c.allowed for c in third.choices] == [True, False, None]


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
    choices = (
        TokenChoice("The", 0.7, False),
        TokenChoice("yes", 0.15, True),
        TokenChoice("no", 0.05, True),
    )
    figure = plot_choices(TracedToken("yes", 0.15, choices), title="One token")
    before, after = figure.axes
    assert [bar.get_width() for bar in before.patches] == [0.7, 0.15, 0.05]
    assert [bar.get_width() for bar in after.patches] == pytest.approx([0, 0.75, 0.25])
    notes = [[text.get_text() for text in axes.texts] for axes in (before, after)]
    assert notes[0] == ["70.0 %  ✗ refused", "15.0 %  ✓ allowed", "5.0 %  ✓ allowed"]
    assert notes[1] == ["0", "75.0 %  taken", "25.0 %"]
    assert "20.0 %" in after.get_xlabel() and "the mask left 20.0 %" in repr(figure)
    assert to_hex(before.patches[0].get_facecolor()) != to_hex(before.patches[1].get_facecolor())
    with pytest.raises(ValueError, match="logprobs"):
        plot_choices(TracedToken("a", 1.0, ()), title="none")


def test_what_the_mask_left_is_shown_however_unlikely_it_was() -> None:
    refused = [TokenChoice(f"w{n}", 0.09, False) for n in range(11)]
    allowed = [TokenChoice(f"a{n}", 0.001 / (n + 1), True) for n in range(8)]
    token = TracedToken("a6", 0.001 / 7, (*refused, *allowed))
    before, after = plot_choices(token, title="Unlikely", count=3).axes
    labels = [label.get_text() for label in before.get_yticklabels()]
    assert labels == ["'w0'", "'w1'", "'w2'", "'a0'", "'a1'", "'a2'", "'a3'", "'a6'"]
    assert sum(bar.get_width() for bar in after.patches) < 1
    nothing_left = TracedToken("x", 0.5, (TokenChoice("x", 0.5, None),))
    assert "taken" in plot_choices(nothing_left, title="?").axes[1].texts[0].get_text()


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


def test_the_button_generates_and_the_text_grows_before_it_is_done(llm: LlamaCpp) -> None:
    playground = GrammarPlayground(llm, "root ::= [^<>]{60}", prompt="The sea", max_tokens=48)
    shown: list[str] = []
    playground.output.observe(lambda change: shown.append(change["new"]), names="value")
    playground.generate_button.click()
    assert playground.wait(60) is playground.result and playground.failure is None
    assert playground.result is not None and len(playground.result.text) == 60
    growing = [value for value in shown if value.endswith("…</pre>")]
    assert growing and all(
        playground.result.text.startswith(html.unescape(value[len(HEAD) : -len("…</pre>")]))
        for value in growing
    )
    assert "✓ complete" in playground.output.value and "<table>" in playground.output.value
    # Greedy, and the same as a direct call: nothing is lost on the way.
    again = GrammarPlayground(llm, "root ::= [^<>]{60}", prompt="The sea", max_tokens=48)
    assert again.generate() == playground.result
    assert playground.result.text == "".join(token.text for token in playground.result.tokens)


def test_stop_keeps_what_there_is(llm: LlamaCpp) -> None:
    playground = GrammarPlayground(llm, "root ::= [^<>]+", prompt="Long ago", max_tokens=200)

    def stop_after_some(change: Any) -> None:
        if len(change["new"]) > 40 and change["new"].endswith("…</pre>"):
            assert not playground.stop_button.disabled and playground.generate_button.disabled
            playground.stop_button.click()

    playground.output.observe(stop_after_some, names="value")
    playground.generate_button.click()
    result = playground.wait(60)
    assert result is not None and result.finish_reason == "cancelled"
    assert 1 < len(result.tokens) < 190
    assert "✗ stopped" in playground.output.value and "<table>" in playground.output.value
    assert playground.stop_button.disabled and not playground.generate_button.disabled
    playground.max_tokens.value = 3
    playground.generate_button.click()
    after = playground.wait(60)
    assert after is not None and len(after.tokens) == 3  # the stop was for that text alone


def test_a_stop_at_once_and_a_second_click_do_no_harm(llm: LlamaCpp) -> None:
    playground = GrammarPlayground(llm, "root ::= [^<>]+", max_tokens=200)
    playground.generate_button.click()
    playground.generate_button.click()
    assert "being generated" in str(playground.failure)
    assert playground.generate() is None
    playground.stop()
    result = playground.wait(60)
    assert result is not None and result.finish_reason == "cancelled"


@pytest.mark.parametrize("in_thread", [True, False])
def test_failures_are_shown_and_kept(llm: LlamaCpp, in_thread: bool) -> None:
    playground = GrammarPlayground(llm, YES_NO, prompt="<word> " * 600)
    if in_thread:
        playground.generate_button.click()
        assert playground.wait(60) is None
    else:
        assert playground.generate() is None
    assert isinstance(playground.failure, ContextOverflowError)
    assert f'<pre role="status">✗ {html.escape(str(playground.failure))}' in playground.output.value
    assert not playground.generate_button.disabled and playground.stop_button.disabled
    playground.prompt.value = "Yes or no?"
    playground.generate_button.click()
    assert playground.wait(60) is not None and playground.failure is None


def test_failures_of_others_are_named_by_their_type(
    llm: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room <here>")

    monkeypatch.setattr("helpers.widgets.playground.generate_traced", broken)
    playground = GrammarPlayground(llm, YES_NO)
    playground.generate_button.click()
    assert playground.wait(60) is None
    assert "RuntimeError: no room &lt;here&gt;" in playground.output.value


def test_an_interrupt_leaves_the_button_usable(
    llm: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    playground = GrammarPlayground(llm, YES_NO)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("helpers.widgets.playground.generate_traced", interrupted)
        playground.generate()
    assert not playground.generate_button.disabled and "Interrupt" in playground.output.value
    assert playground.generate() is not None


def test_without_a_model_or_with_a_wrong_grammar_it_says_so(llm: LlamaCpp) -> None:
    playground = GrammarPlayground(grammar="root ::=")
    assert playground.generate_button.disabled and "no model" in playground.output.value
    assert playground.generate() is None and "no model" in str(playground.failure)
    broken = GrammarPlayground(llm, "root ::= oops")
    assert broken.generate() is None and "Fix the grammar" in broken.output.value


def test_a_closed_model_is_a_failure_like_any_other() -> None:
    llm = LlamaCpp(model_path=default_model(), n_gpu_layers=0, n_ctx=256)
    llm.close()
    playground = GrammarPlayground(llm, YES_NO)
    assert playground.generate() is None
    assert "closed" in playground.output.value and not playground.generate_button.disabled


def test_trying_texts_on_grammars_that_name_tokens_shows_why_not() -> None:
    playground = GrammarPlayground(grammar="root ::= <think>", texts="a")
    assert isinstance(playground.failure, GrammarError) and "✗" in playground.tried.value


def test_it_opens_files_and_grammars() -> None:
    path = GRAMMARS / "yes_no.gbnf"
    assert GrammarPlayground(grammar=path).source.value == path.read_text("utf-8")
    assert GrammarPlayground(grammar=Grammar.from_string(YES_NO)).source.value == YES_NO


# --- with the model ------------------------------------------------------------------------------


def test_with_the_model_refusals_are_told_as_they_were(llm: LlamaCpp) -> None:
    grammar = Grammar.from_string(YES_NO)
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


def test_a_relaxed_schema_s_faults_are_noted(llm: LlamaCpp) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 4, "maxItems": 4}
    grammar = Grammar.from_json_schema({**schema, "uniqueItems": True}, strict=False)
    assert grammar.relaxed  # four different ones of two values: no grammar has such a text
    traced = generate_traced(llm, "Four numbers: [1, 2, 1, 2]\nFour numbers: ", grammar)
    assert traced.finish_reason == "stop" and traced.notes == tuple(grammar.problems(traced.text))
    assert traced.notes
