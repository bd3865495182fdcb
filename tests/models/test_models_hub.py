"""Downloads from a Hub on loopback that drops, truncates, lies, refuses, or is away."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ModelFileError, find_model
from helpers.models.hub import HubName, match_quantization, parse_hub_name
from tests.models.gguf_builders import Draft, split_model, tiny_llama
from tests.models.hub_server import Hub

NAME = "maker/Tiny-GGUF/Tiny-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_llama(tmp_path_factory.mktemp("hub") / "tiny.gguf").read_bytes()


@pytest.fixture
def hub(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    # The library keeps what it has received in pieces of this size; the test's file is small.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)
    with Hub() as hub:
        hub.files = {
            NAME: content,
            "maker/Tiny-GGUF/Tiny-Q8_0.gguf": content,
            "maker/Tiny-GGUF/mmproj-Tiny-Q8_0.gguf": content,
            "maker/Tiny-GGUF/README.md": b"# Tiny",
        }
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("LLAMA_NOTEBOOKS_MODEL_DIR", raising=False)
        yield hub


def kept_files(tmp_path: Path) -> list[str]:
    """Everything in the cache that could be taken for a model."""
    cache = tmp_path / "cache"
    return [
        path.name
        for path in cache.rglob("*")
        if path.is_file() and path.stat().st_size > 100 and path.name != "CACHEDIR.TAG"
    ]


def test_a_file_is_downloaded_once(hub: Hub, content: bytes) -> None:
    path = find_model(NAME)
    assert path.read_bytes() == content
    assert path.name == "Tiny-Q4_K_M.gguf"
    assert len(hub.downloads()) == 1
    assert find_model(NAME) == path
    assert len(hub.downloads()) == 1


def test_a_recipe_finds_its_file(hub: Hub, content: bytes) -> None:
    assert find_model("maker/Tiny-GGUF:q8_0").name == "Tiny-Q8_0.gguf"
    assert find_model("hf.co/maker/Tiny-GGUF:Q4_K_M").name == "Tiny-Q4_K_M.gguf"
    link = f"{hub.address}/maker/Tiny-GGUF/blob/main/Tiny-Q4_K_M.gguf?download=true"
    assert find_model(link).name == "Tiny-Q4_K_M.gguf"


def test_an_ambiguous_or_missing_recipe_lists_the_files(hub: Hub) -> None:
    with pytest.raises(
        ModelFileError, match=r"2 files to choose from.*Tiny-Q4_K_M\.gguf"
    ) as caught:
        find_model("maker/Tiny-GGUF")
    assert "mmproj" not in str(caught.value)
    with pytest.raises(ModelFileError, match=r"no file of the recipe 'Q2_K'.*Tiny-Q8_0\.gguf"):
        find_model("maker/Tiny-GGUF:Q2_K")


def test_all_parts_of_a_split_model_come(hub: Hub, tmp_path: Path, content: bytes) -> None:
    whole = tmp_path / "tiny.gguf"
    whole.write_bytes(content)
    for part in split_model(whole, tmp_path):
        hub.files[f"maker/Big-GGUF/Q4_0/{part.name}"] = part.read_bytes()
    path = find_model("maker/Big-GGUF:Q4_0")
    assert path.name == "m-00001-of-00003.gguf"
    assert len(hub.downloads()) == 3
    assert find_model("maker/Big-GGUF/Q4_0/m-00001-of-00003.gguf") == path


def test_a_dropped_connection_is_resumed(hub: Hub, content: bytes) -> None:
    hub.behaviour[NAME] = "drop once"
    assert find_model(NAME).read_bytes() == content
    spans = hub.downloads()
    assert spans[0] is None
    assert spans[1] is not None and int(spans[1].removeprefix("bytes=").rstrip("-")) > 0


def test_what_stays_short_is_no_model(hub: Hub, tmp_path: Path) -> None:
    hub.behaviour[NAME] = "always short"
    with pytest.raises(ModelFileError, match="was interrupted"):
        find_model(NAME)
    assert kept_files(tmp_path) == []
    del hub.behaviour[NAME]
    assert find_model(NAME).is_file()


def test_wrong_bytes_of_the_right_size_are_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.behaviour[NAME] = "wrong bytes"
    with pytest.raises(ModelFileError, match="SHA-256 differs"):
        find_model(NAME)
    assert kept_files(tmp_path) == []


def test_a_page_in_place_of_the_file_is_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.behaviour[NAME] = "html"
    with pytest.raises(ModelFileError):
        find_model(NAME)
    assert kept_files(tmp_path) == []


def test_a_model_of_tomorrow_is_kept(hub: Hub, tmp_path: Path, content: bytes) -> None:
    draft = Draft(content)
    draft.set_text("tokenizer.ggml.pre", "frobnicate")
    hub.files[NAME] = draft.write(tmp_path / "new.gguf").read_bytes()
    for _ in range(2):
        with pytest.raises(ModelFileError, match="frobnicate"):
            find_model(NAME)
        assert kept_files(tmp_path)
        assert len(hub.downloads()) == 1


def test_a_published_file_that_is_no_model_is_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.files[NAME] = b"<!DOCTYPE html><html>" + b"x" * 500
    with pytest.raises(ModelFileError, match=r"not a usable model and was deleted.*web page"):
        find_model(NAME)
    assert kept_files(tmp_path) == []


def test_a_damaged_cache_is_downloaded_again(hub: Hub, content: bytes) -> None:
    path = find_model(NAME)
    path.resolve().write_bytes(content[:1000])
    assert find_model(NAME).read_bytes() == content
    assert len(hub.downloads()) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maker/Nothing-GGUF/x.gguf", "no repository"),
        ("maker/Nothing-GGUF:Q4_0", "no repository"),
        ("maker/Tiny-GGUF/other.gguf", "no file"),
    ],
)
def test_unknown_names_say_what_is_missing(hub: Hub, name: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        find_model(name)
    assert hub.address in str(caught.value)


def test_licences_and_failing_servers_are_explained(hub: Hub) -> None:
    hub.behaviour[NAME] = "gated"
    with pytest.raises(ModelFileError, match="accept its licence"):
        find_model(NAME)
    hub.behaviour[NAME] = "error"
    with pytest.raises(ModelFileError, match="answered 500"):
        find_model(NAME)
    hub.behaviour[NAME] = "portal"
    with pytest.raises(ModelFileError, match="login page"):
        find_model(NAME)


def test_without_space_nothing_is_downloaded(hub: Hub) -> None:
    free = shutil.disk_usage("/").free
    hub.sizes[NAME] = free + 2**40
    with pytest.raises(ModelFileError, match=r"needs [\d,]+ MiB, but .* free"):
        find_model(NAME)
    assert hub.downloads() == []


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_offline_says_what_exists(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = find_model(NAME)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    # What was downloaded before is found without the Hub ...
    assert find_model(NAME).resolve() == path.resolve()
    assert find_model("maker/Tiny-GGUF:Q4_K_M").resolve() == path.resolve()
    # ... and what was not names everything that is there.
    with pytest.raises(ModelFileError) as caught:
        find_model("maker/Tiny-GGUF:Q8_0")
    message = str(caught.value)
    assert "cannot be reached" in message
    assert f"{NAME} (Hub cache)" in message
    assert "smollm2-135m" in message and "LLAMA_NOTEBOOKS_MODEL_DIR" in message


def test_no_network_is_used_when_not_wanted(hub: Hub) -> None:
    with pytest.raises(ModelFileError, match="not on this machine"):
        find_model(NAME, download_missing=False)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a/b/c.gguf", ("a/b", "c.gguf", None)),
        ("a/b/sub/c.gguf", ("a/b", "sub/c.gguf", None)),
        ("a/b:Q4_K_M", ("a/b", None, "Q4_K_M")),
        ("a/b", ("a/b", None, None)),
        ("hf.co/a/b:Q8_0", ("a/b", None, "Q8_0")),
        ("https://huggingface.co/a/b/resolve/main/c.gguf", ("a/b", "c.gguf", None)),
        ("https://huggingface.co/a/b/", ("a/b", None, None)),
        ("HTTPS://HuggingFace.co/a/b/blob/main/c.gguf#L1", ("a/b", "c.gguf", None)),
        ("huggingface.co/a/b/blob/v1.0/c.gguf", ("a/b", "c.gguf", None, "v1.0")),
        ("http://hf.co/a/b/resolve/v1.0/s/c.gguf?x=1", ("a/b", "s/c.gguf", None, "v1.0")),
        (
            "https://huggingface.co/a/b/blob/refs%2Fpr%2F1/c%20d.gguf",
            ("a/b", "c d.gguf", None, "refs/pr/1"),
        ),
        ("https://huggingface.co/a/b/raw/refs/pr/1/c.gguf", ("a/b", "c.gguf", None, "refs/pr/1")),
        ("https://huggingface.co/a/b/tree/v1.0", ("a/b", None, None, "v1.0")),
        ("https://huggingface.co/a/b/tree/main/Q4_K_M/", ("a/b", None, "Q4_K_M")),
        ("hf://a/b/c.gguf", ("a/b", "c.gguf", None)),
    ],
)
def test_names_on_the_hub(text: str, parts: tuple[str, ...]) -> None:
    assert parse_hub_name(text) == HubName(*parts)


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("https://example.com/a/b/resolve/main/c.gguf", "a link to example.com, which is not the"),
        ("https://huggingface.co.example.com/a/b/c.gguf", "a link to huggingface.co.example.com"),
        ("https://huggingface.co@example.com/a/b/c.gguf", "which is not the Hugging Face Hub"),
        ("https://huggingface.co:8443/a/b/c.gguf", "which is not the Hugging Face Hub"),
        ("https://github.com/ggml-org/llama.cpp", "Download the file yourself"),
        ("https://huggingface.co/datasets/a/b/blob/main/c.gguf", "the Hub's datasets"),
        ("https://huggingface.co/spaces/a/b", "the Hub's spaces"),
    ],
)
def test_other_links_are_refused_in_words(hub: Hub, link: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(words)):
        find_model(link)
    assert hub.requests == []


def test_a_link_gives_the_revision_that_it_names(
    hub: Hub, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Draft(content)
    draft.set_text("general.name", "another")
    other = draft.write(tmp_path / "other.gguf").read_bytes()
    hub.files["maker/Tiny-GGUF@refs%2Fpr%2F1/Tiny-Q4_K_M.gguf"] = other
    link = f"{hub.address}/maker/Tiny-GGUF/%s/refs%%2Fpr%%2F1/%s"
    path = find_model(link % ("blob", "Tiny-Q4_K_M.gguf"))
    assert path.read_bytes() == other != content
    assert find_model(link % ("tree", "")).read_bytes() == other
    assert find_model(NAME).read_bytes() == content
    with pytest.raises(ModelFileError, match=r"no such revision: .*\(revision v9\) on"):
        find_model(f"{hub.address}/maker/Tiny-GGUF/blob/v9/Tiny-Q4_K_M.gguf")
    # Without the Hub, what is kept of a revision is found, and no other stands in for it.
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    page = "https://huggingface.co/maker/Tiny-GGUF/blob/%s/Tiny-Q4_K_M.gguf"
    assert find_model(NAME).read_bytes() == content
    assert find_model(page % "main").read_bytes() == content
    assert find_model(page % "refs%2Fpr%2F1") == find_model(page % path.parts[-2]) == path
    with pytest.raises(ModelFileError, match=r"revision v1\.0\)\) is not on this machine"):
        find_model(page % "v1.0", download_missing=False)


@pytest.mark.parametrize("text", ["a", "a:b", "../x/y.gguf", "a/../b/c.gguf", "a/b.gguf", "a b/c"])
def test_other_names_are_not_on_the_hub(text: str) -> None:
    assert parse_hub_name(text) is None


def test_recipes_are_whole_words() -> None:
    files = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.Q4_K.gguf", "M-q8_0.gguf", "x/Q6_K/m-1.gguf"]
    assert match_quantization(files, "Q4_K_M") == ["m-Q4_K_M.gguf"]
    assert match_quantization(files, "q4_k") == ["m.Q4_K.gguf"]
    assert match_quantization(files, "Q8_0") == ["M-q8_0.gguf"]
    assert match_quantization(files, "Q6_K") == ["x/Q6_K/m-1.gguf"]
    assert match_quantization(files, "Q5_K_M") == []
