"""Folders for the states of prompts that are full, foreign, damaged, or gone."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.base import Gives, Raises, Says, Uses, error, in_threads, make, told
from tests.models.gguf_builders import tiny_llama

use = Uses("prefix_cache")
LONG = "the world said hello to all " * 40  # more than 512 tokens of bytes


def tiny(**fields: Any) -> Any:
    """A model of which a long prompt takes a moment."""
    path = Path("tiny.gguf")
    if not path.exists():
        tiny_llama(path, context=4096)
    return make(**{"model_path": path, "n_ctx": 4096, "cache_dir": "cache", **fields})


def asked(**fields: Any) -> str:
    with tiny(**fields) as llm:
        return str(llm.invoke(LONG))


def _as_without(change: Callable[[Path], object]) -> tuple[bool, bool]:
    """Whether a text is that without a cache after something was done to its file; and a note."""
    expected = asked(cache_dir=None)
    asked()
    (path,) = Path("cache").glob("*.prefix")
    change(path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        same = asked() == expected
    return same, any("cache_dir" in str(warning.message) for warning in seen)


def _rewritten(change: Callable[[bytes], bytes]) -> Callable[[], object]:
    return lambda: _as_without(lambda path: path.write_bytes(change(path.read_bytes())))


use("an empty file", Gives((True, True)))(_rewritten(lambda raw: b""))

use("half of a file", Gives((True, True)))(_rewritten(lambda raw: raw[: len(raw) // 2]))

use("a bit of the state flipped", Gives((True, True)))(
    _rewritten(lambda raw: raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:])
)

use("sizes without end", Gives((True, True)))(
    _rewritten(lambda raw: raw[:40] + b"\xff" * 16 + raw[56:])
)

use("a model in place of a state", Gives((True, True)))(
    _rewritten(lambda raw: Path("tiny.gguf").read_bytes())
)


@use("a file that was deleted", Gives((True, False)))
def a_file_that_was_deleted() -> object:
    return _as_without(Path.unlink)


@use("a folder that was deleted", Gives((True, False)))
def a_folder_that_was_deleted() -> object:
    return _as_without(lambda path: shutil.rmtree(path.parent))


@use("a folder that is deleted while it is used", Says("cache_dir", "cannot be used"))
def a_folder_that_is_deleted_while_it_is_used() -> object:
    llm = tiny()

    def twice() -> None:
        shutil.rmtree("cache")
        llm.invoke(LONG)
        llm._engine._core._scheduler._prefixes.close()  # until it would be written
        llm.invoke("x")

    return told(twice)


@use("a file as the folder", Says("UserWarning", "cannot be used", "works without"))
def a_file_as_the_folder() -> object:
    Path("cache").write_text("x")
    return told(asked)


@use("a pipe under a file's name", Gives((True, False)), posix=True)
def a_pipe_under_a_files_name() -> object:
    def change(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    return _as_without(change)


@use("a link under a file's name", Gives((True, False)), posix=True)
def a_link_under_a_files_name() -> object:
    def change(path: Path) -> None:
        path.rename("elsewhere")
        path.symlink_to(Path("elsewhere").absolute())

    return _as_without(change)


@use("a folder under a file's name", Gives(True))
def a_folder_under_a_files_name() -> object:
    def change(path: Path) -> None:
        path.unlink()
        path.mkdir()

    return _as_without(change)[0]


@use("a folder for all", Says("others may write"), posix=True)
def a_folder_for_all() -> object:
    Path("cache").mkdir()
    Path("cache").chmod(0o777)
    return told(asked)


@use("a folder with NUL", Raises("ValueError", "cache_dir", "folder"))
def a_folder_with_nul() -> object:
    return asked(cache_dir="a\0b")


@use("no name of a folder", Raises("ValueError", "cache_dir"))
def no_name_of_a_folder() -> object:
    return asked(cache_dir="")


@use("a number as the folder", Raises("ValueError", "cache_dir"))
def a_number_as_the_folder() -> object:
    return asked(cache_dir=7)


@use("no room at all", Raises("ValueError", "cache_dir_mib", "0"))
def no_room_at_all() -> object:
    return asked(cache_dir_mib=0)


@use("a name that nobody's disk takes", Says("cannot be used"))
def a_name_that_nobodys_disk_takes() -> object:
    return told(lambda: asked(cache_dir="x" * 5000))


@use("closed right after a long prompt", Gives(1))
def closed_right_after_a_long_prompt() -> object:
    for _ in range(3):
        asked(max_tokens=1)
    return len(list(Path("cache").iterdir()))


@use("asked from eight threads", Gives(True))
def asked_from_eight_threads() -> object:
    expected = asked(cache_dir=None)
    with tiny() as llm:
        answers = in_threads(8, lambda _: error(lambda: llm.invoke(LONG)))
    return set(answers) == {expected}


@use("two models, one folder, at once", Gives(True))
def two_models_one_folder_at_once() -> object:
    expected = asked(cache_dir=None)
    models = [tiny(n_batch=size) for size in (512, 256)]
    answers = in_threads(2, lambda i: error(lambda: [models[i].invoke(LONG) for _ in range(5)]))
    return all(answer == [expected] * 5 for answer in answers)
