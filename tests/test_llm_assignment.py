"""Fields that are set after a model was made: checked, or refused; never ignored."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.runnables import ConfigurableField

from helpers import Grammar, GrammarError, LlamaCpp, ModelFileError
from helpers.engine import LoadOptions
from helpers.parameters import DEAD_ARGUMENTS, DEAD_FIELDS
from tests.hostile.base import FRANCE, MODEL, Word, loaded, make, works


@pytest.mark.parametrize("stop", ["Paris", ["Paris"], ("Paris",), Word.PARIS, [Word.PARIS]])
def test_a_stop_string_is_never_letters(stop: Any) -> None:
    llm = make()
    text = llm.invoke(FRANCE)
    expected = text[: text.index("Paris")]
    assert make(stop=stop).invoke(FRANCE) == expected
    assert llm.invoke(FRANCE, stop=stop) == expected
    assert llm.bind(stop=stop).invoke(FRANCE) == expected
    assert "".join(llm.stream(FRANCE, stop=stop)) == expected
    assert llm.model_copy(update={"stop": stop}).invoke(FRANCE) == expected
    llm.stop = stop
    assert llm.stop == ["Paris"]
    assert llm.invoke(FRANCE) == expected
    llm.stop = None
    assert llm.invoke(FRANCE) == text


LOADING: dict[str, Any] = {
    "model_path": "elsewhere.gguf",
    "n_ctx": 64,
    "n_batch": 8,
    "n_gpu_layers": 5,
    "devices": [],
    "isolate": True,
    "n_parallel": 2,
    "n_threads": 2,
    "use_mmap": False,
    "use_mlock": True,
    "vocab_only": True,
    "lora_path": "adapter.gguf",
    "rope_freq_base": 5.0,
    "rope_freq_scale": 5.0,
    "type_k": "f32",
    "type_v": "f32",
    "flash_attn": False,
    "n_cpu_moe": 1,
    "swa_full": True,
    "offload_kqv": False,
    "op_offload": False,
    "cache_dir": "prompts",
    "cache_dir_mib": 8,
    "model_kwargs": {"n_ubatch": 8},
    "speculate": "lookup",
}


def test_every_field_that_is_read_at_the_load_is_refused_later() -> None:
    known = {field.name for field in dataclasses.fields(LoadOptions)} & set(LlamaCpp.model_fields)
    assert set(LOADING) == known | {"model_kwargs"}
    llm = make()
    for name, value in LOADING.items():
        before = getattr(llm, name)
        with pytest.raises(AttributeError, match=rf"{name}=.* cannot be set: .*model_copy"):
            setattr(llm, name, value)
        assert getattr(llm, name) == before
        setattr(llm, name, before)  # the same again: nothing is ignored
    assert works(llm)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("temperature", "warm", ValueError),
        ("temperature", -1, ValueError),
        ("top_p", 2, ValueError),
        ("max_tokens", -7, ValueError),
        ("stop", [""], ValueError),
        ("stop", 5, ValueError),
        ("grammar", "root ::= (", GrammarError),
        ("grammar", 5, TypeError),
        ("grammar_path", "nowhere.gbnf", GrammarError),
        ("logit_bias", {-1: 0.5}, ValueError),
        ("suffix", 5, ValueError),
        ("temprature", 0, TypeError),
    ],
)
def test_a_wrong_value_is_refused_and_the_old_one_kept(name: str, value: Any, kind: type) -> None:
    llm = make()
    text, before = llm.invoke(FRANCE), llm.model_dump()
    word = "grammar|line 1" if kind is GrammarError else name
    with pytest.raises(kind, match=word):
        setattr(llm, name, value)
    with pytest.raises(kind, match=word):
        llm.model_copy(update={name: value})
    assert llm.model_dump() == before
    assert llm.invoke(FRANCE) == text


def test_fields_of_sampling_can_be_set() -> None:
    llm = make()
    llm.max_tokens = np.int64(2)
    assert llm.generate([FRANCE]).generations[0][0].generation_info["timings"].generated_tokens == 2
    llm.grammar = 'root ::= "yes"'
    assert llm.invoke(FRANCE) == "yes"
    llm.grammar = Grammar.from_string('root ::= "no"')
    assert llm.invoke(FRANCE) == "no"
    llm.tags = ["a"]
    assert llm.tags == ["a"]
    with pytest.warns(DeprecationWarning, match="'f16_kv' has no effect"):
        llm.f16_kv = True


def test_copies_share_the_loaded_model_or_load_it_anew() -> None:
    llm = make(tags=["kept"])
    same = llm.model_copy(update={"max_tokens": 1, "temperature": 0})
    assert (same.max_tokens, llm.max_tokens) == (1, 4)
    assert same._engine._shared is llm._engine._shared  # its own use of the same model
    assert llm.model_copy(deep=True).invoke(FRANCE) == llm.invoke(FRANCE)
    before = loaded()
    other = llm.model_copy(update={"n_ctx": 64, "stop": "x"})
    assert loaded() == before + 1
    assert (other.load_report.n_ctx, other.stop, other.tags) == (64, ["x"], ["kept"])
    assert (llm.load_report.n_ctx, llm.stop) == (512, None)
    assert llm.model_copy(update={"model_path": Path(MODEL)})._engine._shared is llm._engine._shared
    with pytest.raises(ModelFileError, match="nowhere"):
        llm.model_copy(update={"model_path": "nowhere.gguf"})
    flexible = llm.configurable_fields(n_ctx=ConfigurableField(id="n"))
    assert flexible.with_config(configurable={"n": 128}).invoke(FRANCE)
    for copied in (copy.copy(llm), copy.deepcopy(llm), pickle.loads(pickle.dumps(llm))):
        assert copied.invoke(FRANCE) == llm.invoke(FRANCE)


# -- paths and numbers, in whatever form ----------------------------------------------------------


def test_paths_are_taken_as_text_and_as_paths_with_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "answer.gbnf").write_text('root ::= "yes"', "utf-8")
    (tmp_path / "m.gguf").symlink_to(MODEL)
    for path in ("~/answer.gbnf", Path("~/answer.gbnf")):
        assert make(grammar_path=path).invoke(FRANCE) == "yes"
        assert make().invoke(FRANCE, grammar_path=path) == "yes"
    assert make(grammar=Path("~/answer.gbnf")).invoke(FRANCE) == "yes"
    for path in ("~/m.gguf", Path("~/m.gguf")):
        assert works(make(model_path=path))
        assert LoadOptions(model_path=path, lora_path=path).lora_path == str(tmp_path / "m.gguf")
        with pytest.raises(ModelFileError, match="LoRA adapter"):  # found, and no adapter
            make(lora_path=path)
    with pytest.raises(ModelFileError, match="~nobody-of-that-name"):
        make(model_path="~nobody-of-that-name/m.gguf")
    with pytest.raises(TypeError, match="lora_path=5 must be a path"):
        LoadOptions(model_path=MODEL, lora_path=5)


@pytest.mark.parametrize("isolate", [False, True])
def test_numbers_of_numpy_are_taken_per_call(isolate: bool) -> None:
    llm = make(isolate=isolate)
    given: dict[str, Any] = {
        "max_tokens": np.int64(2),
        "top_k": np.int32(4),
        "seed": np.uint32(4),
        "temperature": np.float32(0),
        "logprobs": np.int64(2),
        "last_n_tokens_size": np.int16(3),
        "logit_bias": {np.int64(5): np.float32(-1)},
        "echo": np.bool_(True),
    }
    answer = llm.generate([FRANCE], **given).generations[0][0]
    assert answer.text.startswith(FRANCE)
    assert answer.generation_info["timings"].generated_tokens == 2


@pytest.mark.parametrize(
    "given",
    [{"suffix": 5}, {"echo": "no"}, {"stop": 5}, {"logit_bias": 5}, {"temperature": "warm"}],
)
def test_calls_with_values_of_another_kind_are_refused(given: dict[str, Any]) -> None:
    llm = make()
    with pytest.raises(TypeError, match=next(iter(given))):
        llm.invoke(FRANCE, **given)
    assert works(llm)


def test_tokens_are_counted_of_texts_alone() -> None:
    assert make().get_num_tokens(Word.PARIS) == make().get_num_tokens("Paris")
    for wrong in (5, b"x", None):
        with pytest.raises(TypeError, match="text must be a text"):
            make().get_num_tokens(wrong)


# -- what is dead ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEAD_ARGUMENTS)
@pytest.mark.parametrize("value", [None, 8])
def test_arguments_that_llama_once_had_are_named_and_do_nothing(name: str, value: Any) -> None:
    with pytest.warns(DeprecationWarning, match=f"model_kwargs: {name!r} has no effect any more: "):
        llm = make(model_kwargs={name: value})
    assert llm.asdict() == make().asdict()


def test_arguments_at_their_defaults_are_not_in_the_way() -> None:
    unset = dict.fromkeys(("logits_all", "draft_model", "numa", "n_ctx", "n_ubatch"))
    assert works(make(model_kwargs=unset))
    with pytest.raises(TypeError, match=r"'n_gq'.*'n_gqa'"):
        make(model_kwargs={"n_gq": None})
    assert set(DEAD_FIELDS) & set(LlamaCpp.model_fields) == set()
