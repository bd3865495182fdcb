"""What is published: links that lead somewhere, pictures with words, slides by rule."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.errors import InstallError
from helpers.publish import faults, published
from helpers.publish.notebooks import WIDGET_VIEW
from helpers.publish.outline import LINES, ROOM, headings, outline
from helpers.publish.slides import NOTES, find, read_notes
from tests.support import ROOT

DATA = ROOT / "notebooks" / "data"
WIDGET = new_output("display_data", {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "x"})


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (
            "<a href='b.html#here'>b</a><a href='#top'>up</a><img src='data:image/png;base64,AA'>",
            "",
        ),
        ("<a href='https://example.org/'>elsewhere</a>", ""),
        ("<a href='c.html'>c</a>", "c.html leads nowhere"),
        ("<a href='b.html#there'>b</a>", "b.html#there names a place that is not there"),
        ("<a href='../b.html'>b</a>", "../b.html leads out of the folder"),
        ("<img src='a%20b.png'>", "a%20b.png leads nowhere"),
        ("<script src='//cdn.example.org/x.js'></script>", "is fetched from another site"),
        ("<link rel='stylesheet' href='https://example.org/x.css'>", "from another site"),
        ("<style>@import 'https://example.org/x.css';</style>", "from another site"),
        ("<p style='background: url(x.png)'>", "x.png leads nowhere"),
    ],
)
def test_a_wrong_link_is_found(tmp_path: Path, page: str, fault: str) -> None:
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text("<h1 id='here'>b</h1>")
    found = faults(tmp_path)
    assert len(found) == bool(fault)
    assert all(fault in line and line.startswith("a.html") for line in found)


def test_a_wrong_address_in_a_style_sheet_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.css").write_text("@font-face {src: url('https://example.org/f.woff2')}")
    assert faults(tmp_path) == ["x.css: https://example.org/f.woff2 is fetched from another site"]


def test_a_widget_becomes_its_picture_once() -> None:
    cell = new_code_cell("chooser = ModelChooser()\nchooser", outputs=[WIDGET])
    (shown,) = published(new_notebook(cells=[cell]), DATA).cells[0].outputs
    assert set(shown.data) == {"image/png", "text/plain"}
    assert shown.metadata["alt"] == "ModelChooser at work"
    assert shown.metadata["image/png"]["width"] > 300
    prose = new_markdown_cell("![The chooser](data/widget_chooser.png)")
    assert published(new_notebook(cells=[prose, cell]), DATA).cells[1].outputs == []
    assert cell.outputs == [WIDGET]  # the notebook itself stays as it is
    with pytest.raises(InstallError, match="makes none of ChatBox"):
        published(new_notebook(cells=[new_code_cell("x", outputs=[WIDGET])]), DATA)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_picture_of_a_notebook_has_words(path: Path) -> None:
    notebook = published(nbformat.read(path, as_version=4), DATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert WIDGET_VIEW not in output.get("data", {})
            if any(kind.startswith("image/") for kind in output.get("data", {})):
                assert len(output.metadata["alt"]) > 10
                assert cell.metadata["mystnb"]["image"]["alt"]


def shown(*cells: object, notes: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """The cells of the slides as (type, first line)."""
    made = outline(new_notebook(cells=list(cells)), notes or {})
    return [
        (cell.metadata["slideshow"]["slide_type"], (cell.source.splitlines() or [""])[0])
        for cell in made.cells
    ]


TITLE = new_markdown_cell(
    "# Do it\n\n**What you'll do**\n\nThis.\n\n**What you'll learn**\n\n- that\n\n**Time** 1 minute"
)


def test_prose_begins_a_slide_and_code_follows() -> None:
    assert shown(
        TITLE,
        new_markdown_cell("## A part\n\nWords."),
        new_code_cell("a = 1"),
        new_markdown_cell("More words."),
        new_code_cell("a"),
        new_code_cell(
            "assert a == 1\nprint('✓ one')", outputs=[new_output("stream", text="✓ one")]
        ),
        new_markdown_cell("The end.\n\n## Elsewhere\n\nBooks."),
        new_markdown_cell("## Exercises\n\nThree."),
        new_markdown_cell("### 1. Predict: what?", metadata={"tags": ["exercise"]}),
        new_code_cell("answer = 0", metadata={"tags": ["exercise"]}),
        new_markdown_cell("**Next** another."),
        notes={"": "Welcome.", "A part": "Slowly."},
    ) == [
        ("slide", "# Do it"),
        ("notes", "Welcome."),
        ("subslide", '<p class="where">Do it</p>'),
        ("-", "**What you'll learn**"),
        ("slide", "## A part"),
        ("notes", "Slowly."),
        ("-", "a = 1"),
        ("subslide", '<p class="where">A part</p>'),
        ("-", "More words."),
        ("-", "a"),
        ("-", "The end."),
        ("slide", "## Exercises"),
    ]


def test_tags_overrule() -> None:
    check = {"tags": ["slide-keep"]}
    assert shown(
        new_markdown_cell("## A part"),
        new_code_cell("a = 1", metadata={"tags": ["slide-skip"]}),
        new_code_cell("assert True", metadata=check),
        new_markdown_cell("## Elsewhere", metadata=check),
    ) == [("slide", "## A part"), ("-", "assert True"), ("slide", "## Elsewhere")]


def test_a_long_output_is_cut_and_says_so() -> None:
    long = new_output("stream", text="\n".join(map(str, range(40))))
    made = outline(new_notebook(cells=[new_code_cell("show()", outputs=[long])]), {})
    lines = made.cells[-1].outputs[0].text.splitlines()
    assert len(lines) == LINES and lines[-1] == "… and 29 more lines"


def test_what_has_no_room_goes_to_the_next_slide() -> None:
    code = "\n".join(f"a{n} = {n}" for n in range(ROOM // 26 - 3))
    output = new_output("stream", text="\n".join("abcdefgh"))
    made = outline(
        new_notebook(cells=[new_markdown_cell("## A"), new_code_cell(code, outputs=[output])]), {}
    )
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in made.cells]
    assert kinds == ["slide", "subslide", "-", "subslide", "-"]
    assert made.cells[2].source == code and made.cells[2].outputs == []
    assert made.cells[-1].outputs and made.cells[-1].metadata["transient"]["remove_source"]


def test_notes_for_a_section_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    (notebook,) = find(["30"])
    path = tmp_path / "30_tune_gpu_layers.md"
    path.write_text("# 30\n\n## Aim\n\nTo know.\n\n## Slides\n\n### Measure\n\nAsk first.\n")
    assert read_notes(notebook, tmp_path) == {"": "### Aim\n\nTo know.", "Measure": "Ask first."}
    path.write_text("## Slides\n\n### Measures\n\nAsk first.\n")
    with pytest.raises(InstallError, match="no such section: it has What can take layers, "):
        read_notes(notebook, tmp_path)
    with pytest.raises(InstallError, match="there is no notebook '99'"):
        find(["99"])


def test_the_instructors_notes_belong_to_sections() -> None:
    for notebook in find([]):
        assert len(headings(nbformat.read(notebook, as_version=4))) > 3
        assert set(read_notes(notebook, NOTES)) <= {"", *headings(nbformat.read(notebook, 4))}
