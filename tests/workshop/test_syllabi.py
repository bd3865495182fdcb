"""The workshop's texts: plans that can be held, notes for every notebook, links that lead there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.cli import COMMANDS
from workshop import make_syllabi
from workshop.make_syllabi import HERE, NOTEBOOKS, Syllabus, SyllabusError, read_lesson

PARTS = [
    "Aim", "Misconception", "Question to ask", "Where rooms get stuck", "When late", "Plan B",
]  # fmt: skip
LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
NOTES = sorted((HERE / "notes").glob("*.md"))
PLANS = {plan.minutes: plan for plan in make_syllabi.syllabi()}


def test_the_plans_hold_and_the_files_are_those_that_are_generated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(PLANS) == {120, 240, 480}
    assert make_syllabi.main(["--check"]) == 0, capsys.readouterr().out


def _changed(plan: Syllabus, kind: str, /, **fields: Any) -> Syllabus:
    at = next(n for n, block in enumerate(plan.block) if block["kind"] == kind)
    blocks = [*plan.block]
    blocks[at] = {**blocks[at], **fields}
    return replace(plan, block=blocks)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (_changed(PLANS[120], "teach", minutes=1), "1 minutes; 10 needed"),
        (_changed(PLANS[120], "exercise", minutes=9), "9 minutes; 10 needed"),
        (_changed(PLANS[240], "break", kind="check"), "without a break"),
        (_changed(PLANS[120], "check", minutes=60), "minutes, not 110 to 120"),
        (replace(PLANS[480], block=PLANS[480].block[:-2]), "minutes, not 465 to 480"),
        (replace(PLANS[120], pace=2.0), "minutes, not 110 to 120"),
    ],
)
def test_a_plan_that_cannot_be_held_is_found(plan: Syllabus, message: str) -> None:
    assert any(message in problem for problem in plan.problems()), plan.problems()
    assert not PLANS[plan.minutes].problems()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("teach", {"sections": ["A first question"]}, "no 'A first question'; it has: .*A first a"),
        ("exercise", {"exercises": ["Guess"]}, "no 'Guess'; it has: Predict, Change, Build"),
        ("teach", {"notebook": "00_start"}, "no notebook '00_start'; there are: 00_start_here"),
    ],
)
def test_a_name_that_does_not_exist_is_found(
    kind: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SyllabusError, match=message):
        _changed(PLANS[120], kind, **fields).problems()


def test_the_parts_of_a_lesson_add_up_to_its_minutes() -> None:
    lesson = read_lesson("20_run_on_cpu")
    sections = [title for title in lesson.words if title != "Exercises"]
    assert 30 < lesson.minutes(sections) < 30 + lesson.run_seconds / 60
    assert list(lesson.exercises) == ["Predict", "Change", "Build"] and len(lesson.aims) == 5


def _first_section(name: str) -> str:
    """The section of a notebook's first code cell, whose imports all others need."""
    here = ""
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            return here
        here = [here, *re.findall("^## (.+)", "".join(cell["source"]), re.M)][-1]
    return here


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.file)
def test_what_is_taught_begins_with_the_imports(plan: Syllabus) -> None:
    taught: dict[str, list[str]] = {}
    for block in plan.block:
        taught.setdefault(block.get("notebook", ""), []).extend(block.get("sections", []))
    del taught[""]
    assert taught
    for name, sections in taught.items():
        assert _first_section(name) in ("", sections[0]), f"{plan.file}: {name}"


def test_every_notebook_has_a_note() -> None:
    assert LESSONS and set(LESSONS) <= {path.stem for path in NOTES}


@pytest.mark.parametrize("path", NOTES, ids=[path.stem for path in NOTES])
def test_a_note_is_whole(path: Path) -> None:
    core, _, slides = path.read_text("utf-8").partition("\n## Slides\n")
    title, *parts = re.split(r"^## ", core, flags=re.M)
    assert title.strip() == f"# {path.stem}"
    assert [part.partition("\n")[0] for part in parts] == PARTS
    assert all(len(part.split()) > 15 for part in parts), "a part is empty"
    assert 250 <= len(core.split()) <= 450, "a note is a page"
    if path.stem in LESSONS:
        shown = re.findall(r"^### (.+)", slides, re.M)
        assert set(shown) <= set(read_lesson(path.stem).words), "a slide has no such section"


def test_ten_questions_and_their_answers() -> None:
    parts = re.split(r"^## (?=\d+\. )", (HERE / "questions.md").read_text("utf-8"), flags=re.M)[1:]
    taught = []
    for number, part in enumerate(parts, 1):
        assert part.startswith(f"{number}. ") and re.findall(r"^- ([A-D])\. \S", part, re.M) == [
            *"ABCD"
        ]
        where = re.search(r'Taught in \[(\w+)\]\(\S+\), "(.+)"\.', part)
        assert where and where[2] in read_lesson(where[1]).words, part
        taught.append((where[1], where[2]))
    answers = (HERE / "answers.md").read_text("utf-8")
    given = re.findall(r"^(\d+)\. \*\*([A-D])\.\*\* \S", answers, re.M)
    assert [int(number) for number, _ in given] == list(range(1, 11))
    assert len(parts) == 10 and {letter for _, letter in given} == {*"ABCD"}
    for plan, asked in ((PLANS[120], taught[:6]), (PLANS[240], taught), (PLANS[480], taught)):
        shown = {(b["notebook"], s) for b in plan.block for s in b.get("sections", [])}
        assert set(asked) <= shown, f"{plan.file} asks what it does not teach"


def test_links_lead_somewhere_and_the_readme_leads_everywhere() -> None:
    pages, reached = sorted(HERE.rglob("*.md")), set()
    assert len(pages) > len(NOTES)
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"\w+:", target):
                place = (page.parent / target.partition("#")[0]).resolve()
                assert place.exists(), f"{page.name}: {target} leads nowhere"
                reached |= {place} if page == HERE / "README.md" else set()
    assert {page for page in pages if page != HERE / "README.md"} <= reached


def test_every_command_that_a_teacher_is_told_exists() -> None:
    told = {
        command
        for page in HERE.rglob("*.md")
        for command in re.findall(r"(?:python3?|py) -m helpers ([a-z]+)", page.read_text("utf-8"))
    }
    assert {"doctor", "kit", "progress"} <= told <= set(COMMANDS)
