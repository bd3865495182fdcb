"""What llama.cpp says on behalf of this package is kept; what other code makes it say goes on."""

from __future__ import annotations

import _thread
import logging
from pathlib import Path

import llama_cpp
import pytest
from llama_cpp._logger import logger

from helpers import LlamaCpp, ModelFileError, default_model
from helpers.native import capture_log
from helpers.native.log import _Receiver
from tests.engine.test_engine_lora import write_adapter
from tests.support import wait_for

SMALL = {"n_ctx": 256, "temperature": 0, "max_tokens": 2, "n_gpu_layers": 0}


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_adapter(tmp_path / "a.gguf")
    wrong = write_adapter(tmp_path / "wrong.gguf", rows=128)
    with LlamaCpp(model_path=default_model(), lora_path=str(path), **SMALL) as llm:
        llm.invoke("The capital of France is")
        llm.batch(["one", "two"])
        llm.get_num_tokens("three")
    with pytest.raises(ModelFileError):
        LlamaCpp(model_path=default_model(), lora_path=str(wrong), **SMALL)
    assert capfd.readouterr() == ("", "")


def test_what_other_code_makes_it_say_goes_on(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_log():
        pass  # ours is installed
    monkeypatch.setattr(logger, "level", logging.DEBUG)  # a quiet `Llama` sets it for all
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(default_model()).encode(), parameters)
    llama_cpp.llama_model_free(model)
    assert "loaded meta data" in capfd.readouterr().err


def test_what_a_thread_without_a_caller_says_goes_on() -> None:
    said: list[bytes] = []
    receiver = _Receiver(lambda _level, raw, _data: said.append(raw))
    _thread.start_new_thread(receiver.receive, (2, b"a native thread\n", None))
    assert wait_for(lambda: said == [b"a native thread\n"])
