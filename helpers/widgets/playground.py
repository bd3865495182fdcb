"""`GrammarPlayground`: edit a grammar and see at once what it does.

Everything it shows is made in `grammar_trials.py`, without widgets.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from helpers.errors import HelpersError
from helpers.grammars import Grammar
from helpers.plots import plot_rules
from helpers.widgets.grammar_trials import (
    CheckedGrammar,
    TracedText,
    check_grammar,
    failure_text,
    generate_traced,
    texts_lines,
    texts_table,
    tokens_table,
    try_texts,
)
from helpers.widgets.shell import Work

if TYPE_CHECKING:
    from helpers.llm import LlamaCpp

_GRAMMAR = '# A size in centimetres.\nroot   ::= number " cm"\nnumber ::= [1-9] [0-9]{0,2}\n'
_TEXTS = "42 cm\n42 inches\n042 cm"
_NO_MODEL = "There is no model here; pass one: GrammarPlayground(llm)."
_PAUSE_S = 0.05
"""Between two pictures of a growing text: more would keep the browser busy, not the reader."""
_STYLE = """<style>
.grammar-playground textarea {font-family: monospace; white-space: pre;}
.grammar-playground .prose textarea {white-space: pre-wrap;}
.grammar-playground pre, .grammar-playground code {margin: 0; line-height: 1.35;
  font-family: monospace; white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere;}
.grammar-playground pre.generated {margin: 6px 0; padding: 2px 8px;
  border-left: 3px solid #787878;}
.grammar-playground table {border-collapse: collapse; margin: 6px 0; line-height: 1.35;}
.grammar-playground td, .grammar-playground th {border: 1px solid #787878; padding: 2px 8px;
  text-align: left; vertical-align: baseline; line-height: 1.35;}
.grammar-playground th, .grammar-playground td:first-child {white-space: nowrap;}
.grammar-playground td:nth-child(2) {min-width: 10em;}
.grammar-playground .wide {overflow-x: auto;}
</style>"""


class GrammarPlayground(widgets.VBox):  # type: ignore[misc]
    """Edit a grammar, try texts against it, generate with a model beside it, see its rules.

    All of it works from the keyboard (Tab goes from part to part, the arrow keys change the page),
    and says with words and marks, not with colours, what is right and what is wrong. An error is
    shown in the place of the result, and kept in `failure`. The button
    generates in a thread: the text appears as it grows, and other cells can be run meanwhile.

    Args:
        llm: A model to generate with; None for none.
        grammar: What to begin with: GBNF, a `Grammar`, or the path of a file.
        texts: Texts to try, one a line.
        prompt: The prompt to generate from.
        max_tokens: End a generated text after this many tokens.

    Attributes:
        source: The Textarea with the grammar.
        texts: The Textarea with the texts to try.
        prompt: The Textarea with the prompt.
        max_tokens: The slider beside it.
        generate_button: Generates when clicked.
        stop_button: Ends the text after the current token; what there is remains.
        status: The verdict on the grammar.
        tried: The verdicts on the texts.
        output: The generated text and its tokens.
        drawing: The railroad diagrams.
        checked: The grammar as it was last checked.
        result: The last generated text with its trace, or None.
        failure: The last exception of an action, or None.

    >>> playground = GrammarPlayground(grammar='root ::= "yes" | "no"')
    >>> playground.source.value = 'root ::= "yes" | maybe'
    >>> playground.checked.error.line, playground.checked.error.column
    (1, 18)
    """

    def __init__(
        self,
        llm: LlamaCpp | None = None,
        grammar: str | os.PathLike[str] | Grammar = _GRAMMAR,
        *,
        texts: str = _TEXTS,
        prompt: str = "The table is as wide as",
        max_tokens: int = 48,
    ) -> None:
        self.llm = llm
        self.result: TracedText | None = None
        self.failure: BaseException | None = None
        self.source = _area(_gbnf(grammar), "Grammar in GBNF; it is checked at every key", "180px")
        self.texts = _area(texts, "Texts to try, one a line", "110px")
        self.prompt = _area(prompt, "The prompt to generate from", "60px")
        self.prompt.add_class("prose")
        self.status, self.tried, self.output, self.drawing = (widgets.HTML() for _ in range(4))
        most = max(256, max_tokens)
        self.max_tokens = widgets.IntSlider(max_tokens, 1, most, description="max_tokens")
        self.generate_button = widgets.Button(
            description="Generate", tooltip="Generate with the model under this grammar"
        )
        self.stop_button = widgets.Button(
            description="Stop", tooltip="End the text here", disabled=True
        )
        self._work = Work("grammar-playground", [self.generate_button], self.stop_button)
        self.checked: CheckedGrammar = check_grammar(self.source.value)
        row = widgets.HBox([self.max_tokens, self.generate_button, self.stop_button])
        self._pages = widgets.Tab(
            children=[
                widgets.VBox([_label("Texts to try, one a line"), self.texts, self.tried]),
                widgets.VBox([_label("Prompt"), self.prompt, row, self.output]),
                self.drawing,
            ],
            titles=["Try texts", "Generate", "Drawing"],
        )
        style = widgets.HTML(_STYLE)
        super().__init__([style, _label("Grammar"), self.source, self.status, self._pages])
        self.add_class("grammar-playground")
        self.source.observe(self._grammar_changed, names="value")
        self.texts.observe(self._texts_changed, names="value")
        self.generate_button.on_click(self._clicked)
        self.stop_button.on_click(lambda _: self.stop())
        self.generate_button.disabled = llm is None
        if llm is None:
            self.output.value = _words(_NO_MODEL)
        self._grammar_changed(None)

    def generate(self) -> TracedText | None:
        """Generate under the grammar and show the text with its tokens.

        The button does the same in a thread; this returns when the text is there.

        Returns:
            The text and its trace; None if it failed, and then `failure` says why.
        """
        return self._generate() if self._begin() else None

    def stop(self) -> None:
        """End the text that is being generated; the button calls this."""
        self._work.stop.set()

    def wait(self, timeout_s: float | None = None) -> TracedText | None:
        """Wait for the text that the button has begun.

        Args:
            timeout_s: Most seconds to wait; None for as long as it takes.

        Returns:
            As `generate`; None also if it is not there in time.
        """
        self._work.wait(timeout_s)
        return self.result

    def __str__(self) -> str:
        parts = [self.source.value.rstrip(), self.checked.message]
        if self.checked.grammar is not None:
            parts.append(texts_lines(try_texts(self.checked.grammar, self.texts.value)))
        if self.result is not None:
            parts.append(f"generated: {self.result.text!r}")
        return "\n\n".join(part for part in parts if part)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # Where a notebook is only read there are no widgets: the text says the same.
        return {**super()._repr_mimebundle_(**options), "text/plain": str(self)}

    def _clicked(self, _button: Any) -> None:
        if self._begin():
            self._work.after_click(self._generate)

    def _begin(self) -> bool:
        """Get ready to generate; False if that is going on already."""
        if not self._work.begin():
            self.failure = HelpersError("A text is being generated; stop it or wait for it.")
            return False
        self.result = None
        self.failure = None
        self.output.value = _words("… generating")
        return True

    def _generate(self) -> TracedText | None:
        shown_at = 0.0

        def show(text: str) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > _PAUSE_S:
                self.output.value = _generated(text + "…")
                shown_at = time.monotonic()

        with self._work.showing(lambda error: self._show_failure(self.output, error)):
            if self.llm is None:
                raise HelpersError(_NO_MODEL)
            if self.checked.grammar is None:
                raise HelpersError("Fix the grammar first: the message is under it.")
            self.result = generate_traced(
                self.llm,
                self.prompt.value,
                self.checked.grammar,
                max_tokens=self.max_tokens.value,
                show=show,
                stop=self._work.stop,
            )
            self.output.value = _result_html(self.result)
        return self.result

    def _grammar_changed(self, _change: Any) -> None:
        self.failure = None
        try:
            self.checked = check_grammar(self.source.value)
            self.status.value = _words(self.checked.message)
        except Exception as error:
            self.checked = CheckedGrammar(None, None, failure_text(error))
            self._show_failure(self.status, error)
        if self.checked.grammar is None:
            waiting = _words("(waits for a correct grammar)")
            self.tried.value = self.drawing.value = waiting
            return
        self._try()
        rules = self.checked.grammar
        self._show(self.drawing, lambda: f'<div class="wide">{plot_rules(rules).svg}</div>')

    def _texts_changed(self, _change: Any) -> None:
        self.failure = None
        self._try()

    def _try(self) -> None:
        grammar = self.checked.grammar
        if grammar is not None:
            self._show(self.tried, lambda: texts_table(try_texts(grammar, self.texts.value)))

    def _show(self, place: Any, make: Callable[[], str]) -> None:
        """Show what `make` returns, or why it failed."""
        try:
            place.value = make()
        except Exception as error:
            self._show_failure(place, error)

    def _show_failure(self, place: Any, error: BaseException) -> None:
        self.failure = error
        place.value = _words(failure_text(error))


def _gbnf(grammar: str | os.PathLike[str] | Grammar) -> str:
    """The text to edit: a file's own text, with its comments and mistakes."""
    if isinstance(grammar, Grammar):
        if grammar.gbnf is None:
            raise HelpersError("This grammar cannot be written as GBNF: there is no text to edit.")
        return grammar.gbnf
    if isinstance(grammar, os.PathLike):
        return Path(grammar).read_text("utf-8-sig")
    return grammar


def _area(value: str, placeholder: str, height: str) -> Any:
    return widgets.Textarea(
        value,
        placeholder=placeholder,
        tooltip=placeholder,  # also what a screen reader says
        continuous_update=True,
        layout=widgets.Layout(width="auto", height=height),
    )


def _label(text: str) -> Any:
    return widgets.HTML(f"<b>{html.escape(text)}</b>")


def _words(text: str) -> str:
    return f'<pre role="status">{html.escape(text)}</pre>'


def _generated(text: str) -> str:
    return f'<pre class="generated">{html.escape(text)}</pre>'


def _result_html(result: TracedText) -> str:
    ends = {
        "stop": "✓ complete",
        "length": "✗ cut off by max_tokens",
        "cancelled": "✗ stopped before it was complete",
    }
    end = ends.get(result.finish_reason, result.finish_reason)
    words = (
        f"{end}; {len(result.tokens)} tokens, at {result.overruled} of them "
        "the grammar refused the model's first choice"
    )
    notes = "".join(_words(note) for note in result.notes)
    return (
        f"{_generated(result.text)}{_words(words)}{notes}"
        f'<div class="wide">{tokens_table(result.tokens)}</div>'
    )
