"""The page's table of how many answers fit a card is what `suggest_parallel` computes today."""

from __future__ import annotations

from tests.workshop.record_class_sizes import README, table


def test_the_page_says_what_is_computed() -> None:
    assert f"<!-- sizes -->\n{table()}<!-- /sizes -->" in README.read_text(encoding="utf-8"), (
        "Run: python -m tests.workshop.record_class_sizes"
    )
