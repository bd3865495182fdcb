"""Every file in grammars/ accepts its examples and refuses its counter-examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.errors import GrammarError
from helpers.grammars import Grammar
from helpers.grammars.guidance import byte_tokenizer, compile_guidance

FOLDER = Path(__file__).parents[2] / "grammars"
FILES = sorted(FOLDER.glob("*.gbnf"))
ASKED_FOR = {
    "json",
    "json_array",
    "list",
    "bullets",
    "csv",
    "arithmetic",
    "yes_no",
    "date_iso",
    "chess",
    "korean",
}


def examples(file: Path) -> list[tuple[str, bool]]:
    found = re.findall(r"^# (accepts|refuses): (.*)$", file.read_text("utf-8"), re.MULTILINE)
    # \n is a new line here; in strings such as "\u00e9" the backslash belongs to the text.
    return [(text.replace("\\n", "\n"), kind == "accepts") for kind, text in found]


def test_the_folder_has_what_was_asked_for() -> None:
    assert {file.stem for file in FILES} >= ASKED_FOR


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_what_it_accepts_and_does_so(file: Path) -> None:
    text = file.read_text("utf-8")
    assert re.match(r"# [A-Z].{20,}\.\n# accepts: ", text), "begins with what it accepts"
    cases = examples(file)
    assert {accepted for _, accepted in cases} == {True, False}
    grammar = Grammar.from_file(file)
    assert not grammar.warnings
    for example, accepted in cases:
        assert grammar.matches(example) is accepted, grammar.explain(example)
        # llguidance judges the same.
        matcher = compile_guidance(grammar.guidance())
        data = byte_tokenizer().tokenize_bytes(example.encode())
        complete = matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()
        assert complete is accepted


def test_dates_agree_with_the_calendar() -> None:
    import datetime

    grammar = Grammar.from_file(FOLDER / "date_iso.gbnf")
    for year in (1, 4, 100, 400, 1900, 1999, 2000, 2023, 2024, 9996):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date(year, month, day)
                except ValueError:
                    assert not grammar.matches(text), text
                else:
                    assert grammar.matches(text), text


def test_faults_name_the_file_and_the_place(tmp_path: Path) -> None:
    file = tmp_path / "faulty.gbnf"
    file.write_text('root ::= "a"\nitem ::= [z-a]\n', "utf-8")
    with pytest.raises(GrammarError, match=r"faulty\.gbnf: line 2, column 11") as caught:
        Grammar.from_file(file)
    assert (caught.value.line, caught.value.column) == (2, 11)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "no rules"),
        (b"GGUF\0\0", "U\\+0000"),
    ],
)
def test_files_that_are_no_grammars(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "what.gbnf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GrammarError, match=words):
        Grammar.from_file(file)
    with pytest.raises(GrammarError, match="Cannot read"):
        Grammar.from_file(tmp_path)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "windows.gbnf"
    file.write_bytes('\ufeffroot ::= "a"\r\n\r\n# é\r\nb ::= "c"\r\n'.encode())
    assert Grammar.from_file(file).warnings == ("line 4: rule 'b' is never used.",)


def test_importing_grammars_costs_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from helpers.grammars import Grammar; "
        "Grammar.from_file; heavy = {'llguidance', 'pydantic', 'tree_sitter', 'jsonschema', "
        "'numpy', 'llama_cpp'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
