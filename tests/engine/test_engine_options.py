from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from helpers import LlamaCpp
from helpers.engine import Engine, LoadOptions, Request
from helpers.engine.core import check_memory, settle
from helpers.errors import DeviceError, HelpersError, ModelFileError
from helpers.kv_types import KV_TYPES, kv_type
from helpers.models import default_model, inspect_model
from helpers.models.formats import TENSOR_TYPES
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches
from helpers.models.overrides import check_overrides
from helpers.native import usable_cores
from tests.support import options


def test_defaults_are_the_fast_safe_ones() -> None:
    settled = settle(options(n_ctx=None))
    assert settled.n_ctx == 4096
    assert settled.n_batch == settled.n_ubatch == 512
    assert settled.n_threads == settled.n_threads_batch == usable_cores()
    assert settled.flash_attn is None


def test_zero_context_is_the_trained_one() -> None:
    assert settle(options(n_ctx=0)).n_ctx == 8192


def test_settling_twice_changes_nothing() -> None:
    settled = settle(options())
    assert settle(settled) == settled


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"n_ctx": -1}, ValueError),
        ({"n_ctx": 2**40}, ValueError),
        ({"n_ctx": "many"}, TypeError),
        ({"n_batch": 0}, ValueError),
        ({"n_ubatch": 0}, ValueError),
        ({"n_threads": 0}, ValueError),
        ({"n_threads": 513}, ValueError),
        ({"n_threads_batch": True}, TypeError),
        ({"n_parallel": 0}, ValueError),
        ({"n_parallel": 257}, ValueError),
        ({"n_gpu_layers": -2}, ValueError),
        ({"n_gpu_layers": "all"}, ValueError),
        ({"isolate": "never"}, ValueError),
        ({"type_k": "q9_9"}, ValueError),
        ({"type_v": 9999}, ValueError),
        ({"flash_attn": 1}, ValueError),
        ({"lora_scale": math.nan}, ValueError),
    ],
)
def test_options_without_meaning_are_refused(changes: dict[str, Any], kind: type) -> None:
    with pytest.raises(kind, match=next(iter(changes))):
        options(**changes)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"max_tokens": -2}, ValueError),
        ({"temperature": math.nan}, ValueError),
        ({"temperature": -0.1}, ValueError),
        ({"temperature": "warm"}, TypeError),
        ({"top_p": 1.1}, ValueError),
        ({"min_p": -1}, ValueError),
        ({"typical_p": math.inf}, ValueError),
        ({"repeat_penalty": 0}, ValueError),
        ({"last_n": -2}, ValueError),
        ({"seed": 2**32}, ValueError),
        ({"logprobs": -1}, ValueError),
        ({"stop": ("",)}, ValueError),
        ({"stop": (b"x",)}, ValueError),
        ({"logit_bias": ((-1, 0.5),)}, ValueError),
        ({"logit_bias": ((1.5, 0.5),)}, TypeError),
        ({"logit_bias": ((1, math.inf),)}, ValueError),
        ({"logit_bias": ((1, "x"),)}, TypeError),
    ],
)
def test_requests_without_meaning_are_refused(changes: dict[str, Any], kind: type) -> None:
    with pytest.raises(kind, match=next(iter(changes))):
        Request(prompt="x", **changes)


def test_a_request_says_what_differs_from_the_defaults() -> None:
    request = Request(prompt="x", temperature=0, stop=("a",))
    assert request.to_dict()["temperature"] == 0
    assert "top_k" not in request.to_dict()


def test_random_seeds_differ_and_given_ones_are_kept() -> None:
    assert Request(prompt="x", seed=7).seed_or_random() == 7
    drawn = {Request(prompt="x", seed=seed).seed_or_random() for seed in (None, -1) * 8}
    assert len(drawn) == 16
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_kv_types_have_names_and_numbers() -> None:
    assert kv_type("type_k", "Q8_0") == kv_type("type_k", 8) == 8
    assert kv_type("type_k", None) is None


@pytest.mark.parametrize("name", KV_TYPES)
def test_every_kv_type_generates(name: str) -> None:
    with Engine(options(type_k=name, type_v=name, n_ctx=256)) as engine:
        assert engine.generate(Request(prompt="Hello", max_tokens=2)).generated_tokens == 2


@pytest.mark.parametrize("name", ["f32", "f16", "q8_0", "q4_0"])
def test_predicted_kv_cache_is_the_reported_one(name: str) -> None:
    number = KV_TYPES[name]
    layers = layer_caches(inspect_model(default_model()))
    predicted = sum(kv_mib_by_layer(layers, 1024, number, number))
    with Engine(options(type_k=name, type_v=name)) as engine:
        assert engine.load_report.by_device["CPU"]["kv"] == pytest.approx(predicted, abs=0.01)


def test_a_context_beyond_memory_is_refused_with_one_that_fits() -> None:
    info = inspect_model(default_model())
    too_much = settle(dataclasses.replace(options(), n_ctx=8192))
    with pytest.raises(DeviceError, match=r"n_ctx=\d+ or less") as caught:
        check_memory(dataclasses.replace(too_much, n_ctx=2_000_000), info, n_seq=64)
    assert "64 sequences" in str(caught.value)


def test_more_context_than_trained_for_warns() -> None:
    with pytest.warns(UserWarning, match="8192 tokens this model was trained"):
        settle(options(n_ctx=10_000))


def test_a_batch_larger_than_the_context_warns_but_the_default_does_not() -> None:
    with pytest.warns(UserWarning, match="n_batch=600"):
        assert settle(options(n_ctx=256, n_batch=600)).n_batch == 256
    assert settle(options(n_ctx=256)).n_batch == 256  # warnings are errors here


def test_a_missing_adapter_is_found_before_loading() -> None:
    with pytest.raises(ModelFileError, match="no LoRA adapter at nowhere"):
        settle(options(lora_path="nowhere"))


def test_vocabulary_alone_counts_tokens_and_refuses_to_generate() -> None:
    with Engine(options(vocab_only=True)) as engine:
        assert engine.tokenize("Hello world") == [19556, 905]
        with pytest.raises(HelpersError, match="vocab_only"):
            engine.generate(Request(prompt="Hello"))


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("llama.block_count", 10**9, "block_count"),
        ("llama.block_count", "30", "u32"),
        ("llama.block_count", 30.0, "u32"),
        ("llama.block_count", -1, "out of range"),
        ("llama.context_length", 2**80, "out of range"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "epsilon"),
        ("llama.expert_count", 10**6, "expert_count"),
        ("llama.something", None, "must be a bool"),
        ("tokenizer.ggml.tokens", "x", "array of str"),
    ],
)
def test_impossible_overrides_are_refused(key: str, value: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        check_overrides(str(default_model()), [(key, value)])


def test_possible_overrides_reach_the_model() -> None:
    pairs = (("tokenizer.ggml.add_bos_token", True),)
    with Engine(options(kv_overrides=pairs, vocab_only=True)) as engine:
        assert engine.tokenize("Hello world") == [1, 19556, 905]


def test_the_fields_of_llamacpp_have_the_defaults_of_load_options() -> None:
    fields = LlamaCpp.model_fields
    shared = {f.name: f.default for f in dataclasses.fields(LoadOptions) if f.name in fields}
    assert {"n_ctx", "n_batch", "n_gpu_layers", "swa_full", "n_cpu_moe"} <= set(shared)
    del shared["model_path"]
    assert {name: fields[name].default for name in shared} == shared


def test_what_goes_into_llama_cpp_is_in_its_structures() -> None:
    from llama_cpp import llama_cpp

    for kind, structure in (
        ("model", llama_cpp.llama_model_params),
        ("context", llama_cpp.llama_context_params),
    ):
        known = {name for name, _ in structure._fields_}
        values = options().as_is(kind)
        assert values and set(values) <= known


def test_the_kv_types_are_those_of_ggml() -> None:
    assert {TENSOR_TYPES[number].name.lower(): number for number in KV_TYPES.values()} == KV_TYPES


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"type_k": 1.0}, ValueError),
        ({"kv_overrides": [1]}, TypeError),
        ({"kv_overrides": {"general.name": ["x"]}}, ValueError),
        ({"kv_overrides": {1: 2}}, TypeError),
        ({"tensor_split": [-1]}, ValueError),
        ({"tensor_split": "12"}, TypeError),
        ({"swa_full": 1}, ValueError),
        ({"n_cpu_moe": -1}, ValueError),
        ({"rope_freq_base": -1.0}, ValueError),
        ({"split_mode": 9}, ValueError),
    ],
)
def test_further_options_without_meaning_are_refused(changes: dict[str, Any], kind: type) -> None:
    with pytest.raises(kind, match=next(iter(changes))):
        options(**changes)


def test_numbers_of_numpy_are_numbers() -> None:
    given = options(n_ctx=np.int64(512), rope_freq_base=np.float32(10000.0))
    assert (given.n_ctx, type(given.n_ctx)) == (512, int)
    assert given == options(n_ctx=512, rope_freq_base=10000.0)
