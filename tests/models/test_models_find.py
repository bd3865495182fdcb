"""`find_model` on this machine: paths, variables, a workshop's folder, LM Studio, Ollama."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from helpers import ModelFileError, default_model, find_model, local_models
from tests.models.gguf_builders import tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "Tiny-Q4_K_M.gguf")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no variable that points elsewhere."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    # Nothing listens there: a test that asks the Hub fails.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for variable in ("LLAMA_NOTEBOOKS_MODEL", "LLAMA_NOTEBOOKS_MODEL_DIR", "OLLAMA_MODELS"):
        monkeypatch.delenv(variable, raising=False)
    return home


def put(tiny: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(tiny, target))


def put_in_ollama(tiny: Path, folder: Path, name: str) -> Path:
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    blob = put(tiny, folder / "blobs" / f"sha256-{digest}")
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def test_paths(tiny: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(tiny) == tiny
    assert find_model(str(tiny)) == tiny
    put(tiny, machine / "models" / "mine.gguf")
    assert find_model("~/models/mine.gguf") == machine / "models" / "mine.gguf"
    monkeypatch.setenv("MY_MODELS", str(machine / "models"))
    assert find_model("$MY_MODELS/mine.gguf") == machine / "models" / "mine.gguf"
    monkeypatch.chdir(machine)
    assert find_model("models/mine.gguf") == machine / "models" / "mine.gguf"
    assert find_model(Path("models/mine.gguf")).is_absolute()


def test_missing_paths_are_not_looked_for_elsewhere(tmp_path: Path) -> None:
    for name in (str(tmp_path / "no.gguf"), "./no.gguf", "~/no.gguf"):
        with pytest.raises(ModelFileError, match="There is no file"):
            find_model(name)
    with pytest.raises(ModelFileError, match="There is no file"):
        find_model(Path("no.gguf"))


def test_what_is_found_is_checked(tmp_path: Path) -> None:
    page = tmp_path / "page.gguf"
    page.write_text("<html>")
    with pytest.raises(ModelFileError, match="web page"):
        find_model(page)


@pytest.mark.parametrize("name", ["default", "", None, "smollm2-135m"])
def test_the_default_has_names(name: str | None) -> None:
    assert find_model(name) == default_model()


def test_the_variable_replaces_the_default(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = default_model()
    monkeypatch.setenv("LLAMA_NOTEBOOKS_MODEL", str(tiny))
    assert find_model("default") == tiny
    assert find_model("smollm2-135m") == embedded


def test_a_workshop_s_folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "room"
    flat = put(tiny, room / "Qwen3.5-4B-Q4_K_M.gguf")
    deep = put(tiny, room / "more" / "Other-7B-Q8_0.gguf")
    put(tiny, room / "mmproj-x.gguf")
    put(tiny, room / "Big-00002-of-00002.gguf")
    monkeypatch.setenv("LLAMA_NOTEBOOKS_MODEL_DIR", str(room))
    assert [model.name for model in local_models()] == [
        "more/Other-7B-Q8_0.gguf",
        "Qwen3.5-4B-Q4_K_M.gguf",
    ]
    assert find_model("Qwen3.5-4B-Q4_K_M.gguf") == flat
    assert find_model("other-7b-q8_0") == deep
    # Names of the Hub and of the catalogue find the same file without a network.
    assert find_model("lmstudio-community/Qwen3.5-4B-GGUF/Qwen3.5-4B-Q4_K_M.gguf") == flat
    assert find_model("lmstudio-community/Qwen3.5-4B-GGUF:Q4_K_M") == flat
    assert find_model("qwen3.5-4b") == flat
    with pytest.raises(ModelFileError, match="cannot be reached"):
        find_model("qwen3.5-4b:Q6_K")


def test_lm_studio(tiny: Path, machine: Path) -> None:
    path = put(tiny, machine / ".lmstudio" / "models" / "maker" / "Tiny-GGUF" / "Tiny-Q4_K_M.gguf")
    [model] = local_models()
    assert (model.name, model.source) == ("maker/Tiny-GGUF/Tiny-Q4_K_M.gguf", "LM Studio")
    assert model.size == tiny.stat().st_size
    for name in ("maker/Tiny-GGUF/Tiny-Q4_K_M.gguf", "maker/Tiny-GGUF:q4_k_m", "tiny-q4_k_m"):
        assert find_model(name) == path


def test_ollama(tiny: Path, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = machine / ".ollama" / "models"
    blob = put_in_ollama(tiny, folder, "registry.ollama.ai/library/tiny/1b")
    put_in_ollama(tiny, folder, "registry.ollama.ai/library/tiny/latest")
    put_in_ollama(tiny, folder, "registry.ollama.ai/someone/tiny/q4")
    put_in_ollama(tiny, folder, "hf.co/maker/Tiny-GGUF/Q4_K_M")
    assert find_model("tiny:1b") == find_model("tiny") == find_model("someone/tiny:q4") == blob
    assert find_model("hf.co/maker/Tiny-GGUF:Q4_K_M") == blob
    elsewhere = tmp_path / "elsewhere"
    other = put_in_ollama(tiny, elsewhere, "registry.ollama.ai/library/small/x")
    monkeypatch.setenv("OLLAMA_MODELS", str(elsewhere))
    assert find_model("small:x") == other
    assert [model.source for model in local_models()] == ["Ollama"]


def test_odd_manifests_are_passed_over(tiny: Path, machine: Path) -> None:
    folder = machine / ".ollama" / "models"
    put_in_ollama(tiny, folder, "registry.ollama.ai/library/good/x")
    manifests = folder / "manifests" / "registry.ollama.ai" / "library"
    evil = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../x"}]}
    for name, text in {"a": "not json", "b": "[]", "c": "{}", "d": json.dumps(evil)}.items():
        (manifests / name).mkdir()
        (manifests / name / "x").write_text(text)
    assert [model.name for model in local_models()] == ["good:x"]


def test_links_to_nowhere_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "room"
    room.mkdir()
    try:
        (room / "gone.gguf").symlink_to(room / "nothing")
    except OSError:
        pytest.skip("this system makes no links for ordinary users")
    monkeypatch.setenv("LLAMA_NOTEBOOKS_MODEL_DIR", str(room))
    assert local_models() == []


def test_unknown_names_say_where_was_looked_and_what_exists(tiny: Path, machine: Path) -> None:
    put(tiny, machine / ".lmstudio" / "models" / "maker" / "Tiny-GGUF" / "Tiny-Q4_K_M.gguf")
    with pytest.raises(ModelFileError) as caught:
        find_model("qwen3.5-4bb")
    message = str(caught.value)
    for words in (
        "no model 'qwen3.5-4bb'",
        "Did you mean qwen3.5-4b",
        "maker/Tiny-GGUF/Tiny-Q4_K_M.gguf (LM Studio)",
        "LLAMA_NOTEBOOKS_MODEL_DIR",
        str(machine / ".ollama" / "models"),
        "smollm2-135m",
        "'owner/name:Q4_K_M'",
    ):
        assert words in message


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\n", "日本語モデル", "C:\\no\\such.gguf"])
def test_odd_names_are_errors_of_ours(name: str) -> None:
    with pytest.raises(ModelFileError):
        find_model(name, download_missing=False)


def test_a_huge_folder_is_not_walked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    for number in range(300):
        (room / f"m{number}.gguf").touch()
    monkeypatch.setattr("helpers.models.stores._MAX_FILES", 100)
    monkeypatch.setenv("LLAMA_NOTEBOOKS_MODEL_DIR", str(room))
    assert len(local_models()) == 100
