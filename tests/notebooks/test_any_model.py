"""Every notebook runs to its end with other models than the suite's own, whatever they answer.

Here each notebook meets one of three others, in turn; `LLAMA_NOTEBOOKS_ALL_MODELS=1` lets each
meet all of them (some twenty minutes on two cores).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from check_form import NOTEBOOKS, find_notebooks
from other_models import NAMES, write_model
from run_notebook import execute

from helpers import inspect_model
from helpers.install.configure import pinned_source

LESSONS = find_notebooks()
SOLUTIONS = find_notebooks(NOTEBOOKS / "solutions")
EVERYTHING = bool(os.environ.get("LLAMA_NOTEBOOKS_ALL_MODELS"))
PAIRS = [
    pytest.param(path, name, id=f"{path.parent.name}-{path.stem}-{name}")
    for paths in (LESSONS, SOLUTIONS)
    for n, path in enumerate(paths)
    for shift, name in enumerate(NAMES)
    if EVERYTHING or (n + shift) % len(NAMES) == 0
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if pinned_source() is None:
        pytest.skip("the source with the vocabularies is not on this machine: build from source")
    folder = tmp_path_factory.mktemp("others")
    return {name: write_model(name, folder) for name in NAMES}


def test_the_three_differ_where_notebooks_could_rely_on_one(models: dict[str, Path]) -> None:
    infos = {name: inspect_model(path) for name, path in models.items()}
    tokenizers = [info.metadata.get("tokenizer.ggml.model") for info in infos.values()]
    assert sorted(set(tokenizers)) == ["gpt2", "llama"]
    assert infos["windowed"].metadata["gemma3.attention.sliding_window"] == 512
    assert [name for name, info in infos.items() if not info.chat_template] == ["base"]
    assert len({info.n_layers for info in infos.values()}) == 3
    assert "System role not supported" in str(infos["windowed"].chat_template)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("path", "name"), PAIRS)
def test_a_notebook_runs_with_another_model(models: dict[str, Path], path: Path, name: str) -> None:
    execute(path, model=models[name], timeout_s=600)
