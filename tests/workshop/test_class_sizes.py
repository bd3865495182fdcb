"""The page's table of how many answers fit a card is what `suggest_parallel` computes today."""

from __future__ import annotations

from tests.workshop.record_class_sizes import README, table


def test_the_page_says_what_is_computed() -> None:
    page = README.read_text(encoding="utf-8")
    head, _, line = table(["ministral-3-8b"]).rstrip("\n").split("\n")
    remedy = "Run: python -m tests.workshop.record_class_sizes"
    assert f"<!-- sizes -->\n{head}\n" in page and f"\n{line}\n" in page, remedy
