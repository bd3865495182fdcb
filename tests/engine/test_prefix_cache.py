"""Long prompts kept on the disk: the same text as without, and nothing wrong is ever loaded."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import LlamaCpp
from helpers.engine import Completion, Engine, LoadOptions, Request, prefix_cache
from helpers.engine.prefix_store import SHORTEST, PrefixStore
from helpers.install.clean import leftovers
from helpers.isolation import make_core
from helpers.models.trial import files_key
from tests.engine.test_engine_windows import prompt, told
from tests.memory.test_windowed import write as write_windowed
from tests.models.gguf_builders import tiny_llama, tiny_mamba
from tests.support import ROOT, options, wait_for

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs signals or modes")
CHILD = [sys.executable, "-m", "tests.engine.prefix_child"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("prefix") / "tiny.gguf", context=4096)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def given(model: Path, folder: Path | None, **changes: Any) -> LoadOptions:
    return options(model_path=str(model), n_ctx=4096, cache_dir=folder, **changes)


def request(tokens: list[int], **changes: Any) -> Request:
    wanted = {"max_tokens": 12, "temperature": 0, "repeat_penalty": 1.0, "logprobs": 1}
    bias = ((0, -1e5), (1, -1e5), (2, -1e5))
    return Request(**{"prompt": tuple(tokens), "logit_bias": bias, **wanted, **changes})


def asked(model: Path, folder: Path | None, tokens: list[int], **changes: Any) -> Completion:
    """The answer of an engine that is new, and gone afterwards: all is written then."""
    with Engine(given(model, folder, **changes), make_core) as engine:
        return engine.generate(request(tokens))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.prefix"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("length", [540, 700, 1023, 1024, 1500])
@pytest.mark.parametrize("more", [1, 65, 300, 900])
def test_text_and_likelihoods_are_those_without(
    model: Path, folder: Path, length: int, more: int
) -> None:
    asked(model, folder, prompt(length))
    longer = [*prompt(length - 20), *prompt(more, salt=5)]
    warm = asked(model, folder, longer)
    assert told(warm) == told(asked(model, None, longer))
    timings = warm.timings
    assert (timings.cached_tokens or 0) >= (length - 20) // 128 * 128 - 128
    assert timings.prompt_tokens == len(longer) - (timings.cached_tokens or 0)


def test_a_walk_with_restarts_never_changes_a_text(model: Path, folder: Path) -> None:
    draw, read = random.Random(3), 0
    for _ in range(10):
        tokens = [*prompt(draw.randrange(300, 1600)), *prompt(draw.randrange(1, 500), salt=2)]
        with Engine(given(model, folder)) as engine:
            first = engine.generate(request(tokens))
            read += bool(first.timings.cached_tokens)
            changed = [*tokens[: draw.randrange(len(tokens))], 9, 8, 7]
            second = engine.generate(request(changed))
        assert told(first) == told(asked(model, None, tokens))
        assert told(second) == told(asked(model, None, changed))
    assert read >= 5


def run_child(*arguments: object) -> Any:
    done = subprocess.run(
        [*CHILD, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_after_a_restart_a_real_model_says_the_same(folder: Path) -> None:
    run_child("ask", folder, "Where does the river begin?")
    (kept,) = files(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 or sys.platform == "win32"
    warm = run_child("ask", folder, "Who lives beside the water?")
    cold = run_child("ask", "-", "Who lives beside the water?")
    assert [text for text, _ in warm] == [text for text, _ in cold]  # greedy, and drawn by a seed
    assert warm[0][1] > 1000 and cold[0][1] == 0
    assert files(folder) == [kept]  # the question alone was new


def test_what_is_kept_grows_with_the_prompt(model: Path, folder: Path) -> None:
    asked(model, folder, prompt(600))
    (first,) = files(folder)
    asked(model, folder, prompt(900))
    assert files(folder) == [first]  # too little is new
    asked(model, folder, prompt(1300))
    (second,) = files(folder)  # which has all of the first
    assert second != first
    asked(model, folder, [*prompt(600), *prompt(600, salt=1)])
    assert len(files(folder)) == 2


def test_short_prompts_and_answers_are_not_kept(model: Path, folder: Path) -> None:
    asked(model, folder, prompt(SHORTEST - 1))
    assert not files(folder)
    with Engine(given(model, folder)) as engine:
        talk = prompt(100)
        done = engine.generate(request(talk, max_tokens=700))
        assert done.generated_tokens == 700
        answer = engine._core._scheduler._lane.held[0]  # type: ignore[attr-defined]
        engine.generate(request([*answer, *prompt(30, salt=4)]))
    assert not files(folder)  # computed token by token: rounded differently from a prompt


CHANGES: dict[str, dict[str, Any]] = {
    "K cache": {"type_k": "f32", "type_v": "f32"},
    "flash attention": {"flash_attn": False},
    "rope base": {"rope_freq_base": 20000.0},
    "rope scale": {"rope_freq_scale": 0.5},
    "YaRN": {"rope_scaling_type": 2, "yarn_ext_factor": 0.5},
    "batch": {"n_ubatch": 256},
    "metadata": {"kv_overrides": {"llama.attention.layer_norm_rms_epsilon": 1e-3}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_other_settings_find_nothing(model: Path, folder: Path, changes: dict[str, Any]) -> None:
    asked(model, folder, prompt(700))
    other = asked(model, folder, prompt(700), **changes)
    assert other.timings.cached_tokens == 0
    assert asked(model, folder, prompt(700)).timings.cached_tokens
    assert asked(model, folder, prompt(700), **changes).timings.cached_tokens
    assert len(files(folder)) == 2


def test_threads_and_places_do_not_matter(model: Path, folder: Path) -> None:
    asked(model, folder, prompt(1300), n_threads=2)
    warm = asked(model, folder, prompt(1300), n_threads=1, isolate=True, use_mmap=False)
    assert told(warm) == told(asked(model, None, prompt(1300), n_threads=1))
    assert warm.timings.cached_tokens


def test_another_model_version_or_format_finds_nothing(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(model, folder, prompt(700))
    other = tiny_llama(
        tmp_path / model.name, context=4096, edit=lambda writer: writer.add_description("x")
    )
    assert asked(other, folder, prompt(700)).timings.cached_tokens == 0
    state = model.stat()
    os.utime(model, ns=(state.st_atime_ns, state.st_mtime_ns + 1))  # written to, perhaps
    assert asked(model, folder, prompt(700)).timings.cached_tokens == 0
    monkeypatch.setattr(prefix_cache, "FORMAT", prefix_cache.FORMAT + 1)
    assert asked(model, folder, prompt(700)).timings.cached_tokens == 0
    monkeypatch.undo()
    monkeypatch.setattr(
        prefix_cache, "files_key", lambda *given: files_key(*given) + "another version"
    )
    assert asked(model, folder, prompt(700)).timings.cached_tokens == 0
    assert len(files(folder)) == 5


def test_a_model_that_was_replaced_while_it_was_loaded_is_not_trusted(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = iter(("before", "after"))
    for module in (prefix_cache, sys.modules["helpers.engine.core"]):
        monkeypatch.setattr(module, "prefix_key", lambda _options: next(keys))
    with pytest.warns(UserWarning, match="replaced while it was loaded"):
        asked(model, folder, prompt(700))
    assert not folder.exists()


def _flip(place: int) -> Callable[[bytes], bytes]:
    def flip(raw: bytes) -> bytes:
        changed = bytearray(raw)
        changed[place] ^= 1
        return bytes(changed)

    return flip


def _head(place: int, raw: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:place] + raw + whole[place + len(raw) :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "a part of the head": lambda raw: raw[:20],
    "the head alone": lambda raw: raw[:56],
    "cut off": lambda raw: raw[:-1],
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "longer": lambda raw: raw + b"\0",
    "magic": _flip(0),
    "key": _flip(12),
    "a token": _flip(60),
    "the state": _flip(9000),
    "the last byte of the state": _flip(-40),
    "the hash": _flip(-1),
    "tiles": _head(44, struct.pack("<I", 3)),
    "a huge count of tokens": _head(40, struct.pack("<I", 2**32 - 1)),
    "a huge state": _head(48, struct.pack("<Q", 2**63)),
    "zeros": lambda raw: bytes(len(raw)),
    "foreign": lambda raw: b"GGUF" * 1000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_noted_and_never_loaded(
    model: Path, folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    cold = asked(model, folder, prompt(700))
    (path,) = files(folder)
    path.write_bytes(damage(path.read_bytes()))
    with Engine(given(model, folder)) as engine:
        with pytest.warns(UserWarning, match=r"cache_dir: .*is damaged.* The call works without"):
            again = engine.generate(request(prompt(700)))
        assert told(again) == told(cold) and again.timings.cached_tokens == 0
    warm = asked(model, folder, prompt(700))  # it was kept anew
    assert told(warm) == told(cold) and warm.timings.cached_tokens


def test_a_state_under_another_files_name_is_refused(model: Path, folder: Path) -> None:
    asked(model, folder, prompt(700))
    asked(model, folder, prompt(700, salt=3))
    one, other = files(folder)
    other.write_bytes(one.read_bytes())
    with pytest.warns(UserWarning, match="not what its name says"):
        again = asked(model, folder, prompt(700, salt=3))
    assert told(again) == told(asked(model, None, prompt(700, salt=3)))


def test_a_file_that_was_exchanged_after_it_was_looked_at_is_refused(
    model: Path, folder: Path
) -> None:
    asked(model, folder, prompt(700, salt=3))
    asked(model, folder, prompt(700))
    other, one = files(folder)
    with Engine(given(model, folder)) as engine:
        engine.generate(request(prompt(700)))
        engine.generate(request(prompt(10)))  # the next prompt is not in memory any more
        one.write_bytes(other.read_bytes())
        with pytest.warns(UserWarning, match="not what its name says"):
            again = engine.generate(request(prompt(700)))
    assert told(again) == told(asked(model, None, prompt(700)))


def test_what_llama_refuses_is_computed(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole file with the right key, and a state that is none: as after an error of ours."""
    cold = asked(model, folder, prompt(1300))
    read = PrefixStore.read
    monkeypatch.setattr(PrefixStore, "read", lambda *given: read(*given)[: 1 << 12])  # type: ignore[index]
    with pytest.warns(UserWarning, match="refused the state"):
        again = asked(model, folder, prompt(1300))
    assert told(again) == told(cold) and again.timings.cached_tokens == 0


def test_files_that_are_not_the_suites_stay(model: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    others = [folder / name for name in ("notes.txt", "x.prefix", "0-0-0.prefix", ".x.part")]
    for path in others:
        path.write_bytes(b"x" * 3 * 2**20)
    asked(model, folder, prompt(700), cache_dir_mib=1)
    assert all(path.stat().st_size == 3 * 2**20 for path in others)


def test_the_least_recently_used_go_first(model: Path, folder: Path) -> None:
    def cached(salt: int) -> int | None:
        time.sleep(0.02)
        return asked(model, folder, prompt(800, salt), cache_dir_mib=1).timings.cached_tokens

    assert not any(cached(salt) for salt in range(3))
    assert 4 < 2**20 / files(folder)[0].stat().st_size < 5  # room for four
    assert cached(0)  # used again
    for salt in (3, 4, 5):
        assert not cached(salt)
        assert sum(path.stat().st_size for path in files(folder)) <= 2**20
    assert [bool(cached(salt)) for salt in (5, 4, 3, 0, 1)] == [True] * 4 + [False]
    with pytest.warns(UserWarning, match="more than cache_dir_mib"):
        asked(model, folder, prompt(4000), cache_dir_mib=1)


def test_parts_that_nobody_writes_any_more_are_removed(model: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    old, new = (folder / f".{number:016x}.part" for number in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    asked(model, folder, prompt(700))
    assert not old.exists() and new.exists()


def test_two_processes_at_once(model: Path, folder: Path) -> None:
    running = [
        subprocess.Popen(
            [*CHILD, "loop", str(model), str(folder), "12", str(seed)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    answers = []
    for child in running:
        out, err = child.communicate(timeout=300)
        assert child.returncode == 0 and "Warning" not in err, err
        answers.append([line for line in out.splitlines() if line.startswith("done")])
    assert [len(lines) for lines in answers] == [12, 12]
    assert not list(folder.glob(".*.part"))
    assert sum(path.stat().st_size for path in files(folder)) <= 2**20
    check_all(model, folder)


def check_all(model: Path, folder: Path) -> None:
    """Whatever is in the folder is whole, or noted; and no text is another one because of it."""
    for salt in range(4):
        tokens = prompt(700, salt)
        assert told(asked(model, folder, tokens)) == told(asked(model, None, tokens))


@POSIX
def test_killed_while_it_saves(model: Path, folder: Path) -> None:
    parts = run_child("kill", model, folder)
    assert len(parts) == 20 and parts[-1] >= 2  # killed in the middle
    assert len(files(folder)) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that is there is damaged
        check_all(model, folder)


@POSIX
def test_a_full_disk_is_noted_once(model: Path, folder: Path) -> None:
    """The system's limit for the size of a file stands for the disk's end."""
    said = run_child("full", model, folder)
    assert said["texts"] == said["expected"]
    assert len(said["warnings"]) == 1 and "cannot be used (File too large)" in said["warnings"][0]
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_noted_once(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with Engine(given(model, tmp_path / "file" / "cache")) as engine:
        with pytest.warns(UserWarning, match=r"file.* cannot be used .*The call works without"):
            first = engine.generate(request(prompt(700)))
        assert told(engine.generate(request(prompt(700)))) == told(first)
    assert told(first) == told(asked(model, None, prompt(700)))


@POSIX
def test_a_folder_that_others_can_write_to_is_not_used(model: Path, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="others may write to .*chmod 700"):
        asked(model, folder, prompt(700))
    assert not files(folder)


@POSIX
def test_a_file_is_for_its_owner_alone(model: Path, folder: Path) -> None:
    before = os.umask(0)
    try:
        asked(model, folder, prompt(700))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(files(folder)[0].stat().st_mode) == 0o600


@pytest.mark.filterwarnings("ignore:n_ctx=4096 is more than")
@pytest.mark.parametrize("kind", ["recurrent", "windowed"])
def test_models_without_a_place_to_cut_say_so(kind: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    if kind == "recurrent":
        tiny_mamba(path)
    else:
        write_windowed(path, "gemma3", 6, sliding_window=64)
    with Engine(given(path, folder, swa_full=True)) as engine:
        with pytest.warns(UserWarning, match="cannot be cut off"):
            first = engine.generate(request(prompt(700)))
        assert told(engine.generate(request(prompt(700)))) == told(first)
    assert not folder.exists()


def test_a_file_that_vanishes_is_done_without(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = asked(model, folder, prompt(700))
    find = PrefixStore.find

    def vanishing(store: PrefixStore, tokens: list[int]) -> Any:
        found = find(store, tokens)
        for path in files(folder):
            path.unlink()
        return found

    monkeypatch.setattr(PrefixStore, "find", vanishing)
    again = asked(model, folder, prompt(700))
    assert told(again) == told(cold) and again.timings.cached_tokens == 0


def test_the_time_of_reading_is_no_time_of_the_prompt(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(model, folder, prompt(1300))
    read = PrefixStore.read

    def slow(*given: Any) -> Any:
        time.sleep(0.5)
        return read(*given)

    monkeypatch.setattr(PrefixStore, "read", slow)
    timings = asked(model, folder, prompt(1300)).timings
    assert timings.cached_tokens == 1300 - 64
    assert timings.first_token_ms and timings.prompt_ms
    assert timings.first_token_ms >= timings.prompt_ms + 500


def test_side_by_side_goes_without(model: Path, folder: Path) -> None:
    asked(model, folder, prompt(700))
    requests = [request([*prompt(650), *prompt(30, salt)]) for salt in range(3)]
    with Engine(given(model, folder)) as engine:
        together = engine.generate_many(requests)
    assert together[0].timings.cached_tokens == 0
    for done, one in zip(together, requests, strict=True):
        assert isinstance(one.prompt, tuple)
        assert done.text == asked(model, None, list(one.prompt)).text


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "suite"))
    return tmp_path / "suite"


def test_the_fields_of_a_model_and_clean(model: Path, own_cache: Path) -> None:
    with LlamaCpp(model_path=model, n_ctx=4096, temperature=0, max_tokens=3, cache_dir=True) as llm:
        llm.invoke("hello world " * 200)
        assert "cache_dir" not in llm._identifying_params
        with pytest.raises(AttributeError, match="cache_dir"):
            llm.cache_dir = None
    assert wait_for(lambda: files(own_cache / "prefixes"))
    found = {path: mib for path, _, mib in leftovers(ROOT)}
    assert found[own_cache] > files(own_cache / "prefixes")[0].stat().st_size / 2**20


@pytest.mark.parametrize("value", ["", "a\0b", 3, b"x"])
def test_values_that_are_no_folder(model: Path, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="cache_dir"):
        options(model_path=str(model), cache_dir=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_values_that_are_no_size(model: Path, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="cache_dir_mib"):
        options(model_path=str(model), cache_dir_mib=value)
