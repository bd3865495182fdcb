"""Tables: the same rows as text and as HTML, aligned, escaped, with rows that end early."""

from __future__ import annotations

import re

from helpers.tables import Code, FactSheet, html_table, text_lines

COLUMNS = {"device": "<8", "MiB": ">8,.1f", "n": ">", "": "<"}
ROWS = [("CPU", 1234.56, 3, "<- full"), ("RPC0", None, 12, None), ("CUDA0", "out of memory")]


def test_text_is_aligned_and_a_short_row_runs_on() -> None:
    assert text_lines(COLUMNS, ROWS) == [
        "device         MiB   n",
        "CPU        1,234.6   3  <- full",
        "RPC0                12",
        "CUDA0     out of memory",
    ]


def test_a_text_that_is_too_wide_widens_its_column() -> None:
    lines = text_lines({"a": "<2", "b": ">"}, [("long", 1), ("x", 22)])
    assert lines == ["a      b", "long   1", "x     22"]


def test_html_says_the_same_and_spans() -> None:
    html = html_table(COLUMNS, ROWS, caption=["one", "two"], notes=["three"], strong=1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", html) == [
        *("CPU", "1,234.6", "3", "&lt;- full"),
        *("RPC0", "", "12", ""),
        *("CUDA0", "out of memory"),
    ]
    assert "<td style='text-align:left' colspan='3'>out of memory</td>" in html
    assert html.startswith("<div>one<br>two</div><table>") and html.endswith("<p>three</p>")
    assert html.index("font-weight:bold") > html.index("full")
    assert html.count("<tr") == html.count("</tr>") == 4


def test_everything_is_escaped() -> None:
    bad = "<script>&'\""
    html = html_table({bad: "<"}, [(bad,), (Code(bad),)], caption=[bad], notes=[bad])
    assert "<script>" not in html and html.count("&lt;script&gt;&amp;") == 5
    assert ">&lt;script" in html.partition("<code")[2]


def test_a_fact_sheet_has_labels_and_no_head() -> None:
    class Sheet(FactSheet):
        def rows(self) -> list[tuple[str, str]]:
            return [("name", "x"), ("a longer name", "<y>")]

    assert str(Sheet()) == "name           x\na longer name  <y>"
    html = Sheet()._repr_html_()
    assert "thead" not in html and re.findall(r"<th[^>]*>(.*?)</th>", html) == [
        "name",
        "a longer name",
    ]
