"""Who is compared counts alike: a speed is tokens over time, and both are taken from outside."""

from __future__ import annotations

import pytest

from helpers.bench.contestants import QUESTION, Raw
from helpers.models import format_prompt


@pytest.mark.parametrize("prompt", [QUESTION, format_prompt([("user", "Count to ten.")])])
def test_the_tokens_of_raw_llama_are_counted_whatever_the_prompt(prompt: str) -> None:
    raw = Raw(n_ctx=256, n_threads=2)
    raw.generate(prompt, 6)
    assert raw.written(prompt) == 5
    raw.llama.close()
