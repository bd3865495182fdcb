"""The Korean notebooks and pages: made from gettext's files, with the code of the English ones."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_korean
import nbformat
import pytest
from make_korean import ROOT, korean, pages, printed, prose, translations
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

LESSONS = [page for page in pages() if page.suffix == ".ipynb"]
NUMBERS = ("00", "20", "22", "30", "40", "41", "50")
GLOSSARY = ROOT / "docs" / "glossary-ko.md"


def both(page: Path) -> tuple[Any, Any]:
    files = (page, page.parent / "ko" / page.name)
    return tuple(nbformat.v4.reads(file.read_text("utf-8")) for file in files)  # type: ignore[return-value]


def test_the_files_are_what_they_are_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_korean.main(["check"]) == 0, capsys.readouterr().out
    with capsys.disabled():
        print("\n" + capsys.readouterr().out, end="")  # the counts, for everybody to see


def test_the_pages_that_were_promised_are_there() -> None:
    assert tuple(page.name[:2] for page in LESSONS) == NUMBERS
    made = sorted((ROOT / "notebooks" / "ko").glob("*.ipynb"))
    assert [path.name for path in made] == [page.name for page in LESSONS]


# --- code ----------------------------------------------------------------------------------------


def tokens(source: str) -> list[str]:
    """Every token of a cell but its comments."""
    read = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in read if token.type != tokenize.COMMENT]


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_the_code_is_that_of_the_english(page: Path) -> None:
    english, other = both(page)
    ready = translations(page)
    assert [(c.id, c.cell_type) for c in english.cells] == [
        (c.id, c.cell_type) for c in other.cells
    ]
    for one, same in zip(english.cells, other.cells, strict=True):
        if one.cell_type != "code" or one.source == same.source:
            continue
        differ = [
            p for p in zip(tokens(one.source), tokens(same.source), strict=True) if len({*p}) > 1
        ]
        for old, new in (map(ast.literal_eval, pair) for pair in differ):
            moved = (page.parent / "ko" / new).resolve()
            assert ready.get(old) == new or (
                moved.exists() and moved == (page.parent / old).resolve()
            )
    for one, same in zip(english.cells, other.cells, strict=True):
        if one.cell_type == "code":
            assert one.execution_count == same.execution_count
            assert len(one.outputs) == len(same.outputs)
            for old, new in zip(one.outputs, same.outputs, strict=True):
                if old.output_type == "stream":
                    assert printed(old.text, ready) == new.text
                else:
                    assert old == new


# --- words ---------------------------------------------------------------------------------------


def glossary() -> Iterator[tuple[str, str, bool, list[str]]]:
    """Give (English, Korean, whether it is fixed, what is never written) of each row."""
    for line in GLOSSARY.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and cells[0] not in ("English", "---"):
            yield cells[0], cells[1], cells[2] == "✓", [w for w in cells[3].split(", ") if w]


def words_of(text: str) -> str:
    """What a reader reads of a message: no code, no targets of links."""
    children = MarkdownIt("commonmark").parseInline(text)[0].children or []
    return "".join(one.content for one in children if one.type == "text")


def faults(text: str, string: str) -> Iterator[str]:
    """Yield what is wrong with the words of a translation."""
    english, korean_words = words_of(text), words_of(string)
    for term, word, fixed, never in glossary():
        yield from (f"{bad} for {term}" for bad in never if bad in korean_words)
        if fixed and re.search(rf"\b{term}s?\b", english, re.I) and word not in string:
            yield f"no {word} for {term}"
    if re.search(r"(?:\b[a-z][a-z'-]+[ ,]+){4}", re.sub(r'[“"].*?[”"]', "", korean_words)):
        yield "English words"
    if (
        re.search(r"[a-z]{2}", english)
        and len(english.split()) > 3
        and not re.search("[가-힣]", string)
    ):
        yield "no Korean word"
    if re.search(r"은\(는\)|을\(를\)|이\(가\)|당신|(?:이다|한다|된다|해요|예요)\.", korean_words):
        yield "not 합니다체, or a particle with a choice"
    if "*" in korean_words and "*" not in english:
        yield "an emphasis that Markdown does not close"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_the_words_are_those_of_the_glossary(page: Path) -> None:
    wrong = {s: found for t, s in translations(page).items() if (found := list(faults(t, s)))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "string", "fault"),
    [
        ("A long token", "긴 토크", "no 토큰 for token"),
        ("The device", "디바이스", "디바이스 for device"),
        (
            "It reads the file again and again.",
            "파일을 it reads the file again 읽습니다.",
            "English",
        ),
        ("It reads the file again.", "It reads.", "no Korean word"),
        ("It reads.", "파일을 읽는다. 다시 한다.", "합니다체"),
        ("The **GGUF (file)** is", "**GGUF(파일)**은", "emphasis"),
    ],
)
def test_each_fault_is_found(text: str, string: str, fault: str) -> None:
    assert fault in "; ".join(faults(text, string))


def test_the_questions_quote_sections_that_exist() -> None:
    page = ROOT / "workshop" / "ko" / "questions.md"
    quoted = re.findall(r'\]\(([^)]+/ko/[^)]+)\)의 "(.+?)"', page.read_text("utf-8"))
    assert len(quoted) >= 9
    for link, title in quoted:
        assert f'"## {title}' in (page.parent / link).read_text("utf-8"), title


# --- how it is made, on pages of its own ---------------------------------------------------------

PAGE = """# A title

A *word* and `code`, see [there](other.md) and [data](data/x.txt).

| a | b |
|---|---|
| one | one \\| two |

1. first
   goes on

```
plain words
```

```bash
python3 -m helpers lab
```
"""
KOREAN = {
    "A title": "제목",
    "A *word* and `code`, see [there](other.md) and [data](data/x.txt).": "*말*과 `code`. "
    "[저기](other.md)와 [자료](data/x.txt)에 있습니다.",
    "one": "하나",
    "one | two": "하나 | 둘",
    "first goes on": "첫째 말이 이어집니다.",
    "plain words": "그냥 말\n두 줄",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(make_korean, "ROOT", tmp_path)
    monkeypatch.setattr(make_korean, "LOCALE", tmp_path / "locale")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("x")
    for name in ("page.md", "other.md"):
        (tmp_path / name).write_text(PAGE)
    assert make_korean.main(["update", str(tmp_path / "page.md"), str(tmp_path / "other.md")]) == 0
    return tmp_path


def translate(page: Path, strings: dict[str, str]) -> None:
    catalog = make_korean.read_catalog(page)
    for text, string in strings.items():
        catalog[text].string = string
    with make_korean.po_file(page).open("wb") as file:
        make_korean.write_po(file, catalog)


def test_a_page_is_translated_in_place(folder: Path) -> None:
    translate(folder / "page.md", KOREAN)
    assert make_korean.main(["update"]) == make_korean.main(["make"]) == 0
    made = (folder / "ko" / "page.md").read_text("utf-8")
    assert made.startswith(
        "# 제목\n\n[영어 원문](../page.md)\n\n문장 8개 가운데 번역하지 않은 것이 2개"
    )
    assert "*말*과 `code`. [저기](other.md)와 [자료](../data/x.txt)에 있습니다." in made
    assert "| a | b |" in made and "| 하나 | 하나 \\| 둘 |" in made
    assert "1. 첫째 말이 이어집니다.\n" in made and "```\n그냥 말\n두 줄\n```" in made
    assert "```bash\npython3 -m helpers lab\n```" in made
    assert [span.text for span in prose(made)].count("하나") == 1
    assert make_korean.main(["check"]) == 0
    # the other page takes over the sentences of the first one, and no single word
    other = (folder / "ko" / "other.md").read_text("utf-8")
    assert "# A title" in other and "1. 첫째 말이 이어집니다." in other
    assert make_korean.main(["make", "--site", str(folder / "site")]) == 0
    assert "](data/x.txt)" in (folder / "site" / "page.md").read_text("utf-8")


def test_what_changed_is_stale_and_shown_in_english(folder: Path) -> None:
    page = folder / "page.md"
    translate(page, KOREAN)
    page.write_text(PAGE.replace("A title", "A new title").replace("goes on", "goes on further"))
    assert make_korean.main(["check", str(page)]) == 1
    assert make_korean.main(["update", str(page)]) == 0
    assert make_korean.count(page) == make_korean.Count(8, 2, 2)
    assert "# A new title" in korean(page) and "원문이 바뀐 것이 2개" in korean(page)
    assert '#| msgid "A title"' in make_korean.po_file(page).read_text("utf-8")


@pytest.mark.parametrize(
    ("old", "new", "loss"),
    [
        ("`code`", "code", "code_inline"),
        ("other.md", "another.md", "another.md"),
        ("*말*", "말", "em_open"),
        ("*말*과", "*말(言)*과", "em_open"),
    ],
)
def test_a_loss_is_a_problem(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, loss: str
) -> None:
    changed = {text: string.replace(old, new) for text, string in KOREAN.items()}
    translate(folder / "page.md", changed)
    assert make_korean.main(["make", str(folder / "page.md")]) == 1
    assert loss in capsys.readouterr().out


def test_a_translation_cannot_change_the_structure(folder: Path) -> None:
    translate(folder / "page.md", {**KOREAN, "first goes on": "# 제목이 됩니다."})
    with pytest.raises(ValueError, match="제목이 됩니다"):
        korean(folder / "page.md")


CODE = '''path = "data/x.txt"  # a file
value = 1  # noqa: E741
def f():
    """What it does."""
done = checkpoint({"a number": lambda: f"a number" == "a number"})'''
CODE_KOREAN = '''path = "../data/x.txt"  # 파일
value = 1  # noqa: E741
def f():
    """하는 일."""
done = checkpoint({"숫자": lambda: f"a number" == "a number"})'''


def test_in_code_only_words_for_readers_change(folder: Path) -> None:
    page = folder / "00_a_lesson.ipynb"
    printed_text = "✓ a number\nstill to do: a number (ZeroDivisionError)\na number\n"
    outputs = [new_output("stream", name="stdout", text=printed_text)]
    cells = [
        new_markdown_cell("# A title", id="one"),
        new_code_cell(CODE, id="two", outputs=outputs),
        new_code_cell("%%bash\necho  # a file", id="three"),
    ]
    page.write_text(nbformat.v4.writes(new_notebook(cells=cells)))
    assert make_korean.main(["update", str(page)]) == 0
    translate(page, {"a file": "파일", "What it does.": "하는 일.", "a number": "숫자"})
    made = nbformat.v4.reads(korean(page))
    assert [cell.source for cell in made.cells[1:]] == [CODE_KOREAN, "%%bash\necho  # a file"]
    assert made.cells[1].outputs[0].text == (
        "✓ 숫자\nstill to do: 숫자 (ZeroDivisionError)\na number\n"
    )


def test_messages_are_those_of_sphinx(tmp_path: Path) -> None:
    """Sphinx finds the same ones in the English pages, and asks for no other."""
    pytest.importorskip("myst_nb")
    from babel.messages.pofile import read_po

    source = tmp_path / "source"
    for page in pages():
        file = source / page.relative_to(ROOT)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page.read_text("utf-8"), "utf-8")
    conf = """extensions = ["myst_nb"]
nb_execution_mode = "off"
suppress_warnings = ["myst.xref_missing"]
gettext_compact = False
"""
    (source / "conf.py").write_text(conf + f"root_doc = 'notebooks/{LESSONS[0].stem}'\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "gettext", source, tmp_path / "out"]
    subprocess.run(command, check=True, timeout=240)
    for page in pages():
        pot = tmp_path / "out" / page.relative_to(ROOT).with_suffix(".pot")
        wanted = {str(one.id) for one in read_po(io.BytesIO(pot.read_bytes())) if one.id}
        ours = {
            text
            for text, places in make_korean.messages(page).items()
            if any(place.startswith(("text", "cell")) for place in places)
        }
        # A picture's text alone is a message there, too; here it is a part of its paragraph.
        alone = {one for one in wanted if any(f"![{one}]" in text for text in ours)}
        with_words = {one for one in wanted if make_korean._NO_WORDS.sub("", one)}
        assert with_words - alone == ours, page.name
