"""Settings that are out of range, misspelt or at their limits."""

from __future__ import annotations

from typing import Any

from helpers import devices
from tests.hostile.base import FRANCE, Gives, Raises, Says, Uses, error, make, told, works

use = Uses("parameters")


def _parameter(name: str, kind: str, *words: str, **fields: Any) -> None:
    use(name, Raises(kind, *words))(lambda: make(**fields).invoke("x"))


_parameter("negative context", "ValueError", "n_ctx=-1", "out of range", n_ctx=-1)
_parameter("negative batch", "ValueError", "n_batch=-8", n_batch=-8)
_parameter("batch of nothing", "ValueError", "n_batch=0", n_batch=0)
_parameter("context beyond any memory", "DeviceError", "MiB", "n_ctx=", n_ctx=8_000_000)
_parameter("context beyond 32 bits", "ValueError", "n_ctx", n_ctx=2**40)
_parameter("a million threads", "ValueError", "n_threads", "512", n_threads=10**6)
_parameter("no threads", "ValueError", "n_threads=0", n_threads=0)
_parameter("no sequences", "ValueError", "n_parallel=0", n_parallel=0)
_parameter("temperature that is no number", "ValueError", "nan", temperature=float("nan"))
_parameter("negative max_tokens", "ValueError", "max_tokens=-7", max_tokens=-7)
_parameter("seed beyond 32 bits", "ValueError", "seed", seed=2**40)
_parameter("endless rope", "ValueError", "rope_freq_base=inf", rope_freq_base=float("inf"))
_parameter("unknown KV type", "ValueError", "type_k='q9'", "q8_0", type_k="q9")
_parameter(
    "quantized V without flash attention",
    "DeviceError",
    "V cache",
    "flash_attn",
    type_v="q8_0",
    flash_attn=False,
)
_parameter("misspelt name", "TypeError", "temprature", "'temperature'", temprature=0.5)
_parameter("empty stop string", "ValueError", "stop=['']", stop=[""])
_parameter("all the logprobs and more", "ValueError", "logprobs", logprobs=10**9)
_parameter("bias beyond the vocabulary", "ValueError", "10000000", logit_bias={10**7: 1.0})
_parameter("bias before the vocabulary", "ValueError", "-1", logit_bias={-1: 1.0})
_parameter("endless bias", "ValueError", "inf", logit_bias={1: float("inf")})
_parameter("misspelt argument", "TypeError", "n_ubach", "'n_ubatch'", model_kwargs={"n_ubach": 8})
_parameter(
    "argument of another kind", "TypeError", "n_ubatch='many'", model_kwargs={"n_ubatch": "many"}
)
_parameter("flash attention number 7", "ValueError", "flash_attn=7", model_kwargs={"flash_attn": 7})
_parameter("argument that is a field", "ValueError", "n_ctx=8", model_kwargs={"n_ctx": 8})
_parameter("argument not served", "ValueError", "draft_model", model_kwargs={"draft_model": 1})
_parameter("negative shares", "ValueError", "tensor_split", model_kwargs={"tensor_split": [-1.0]})
_parameter(
    "more layers than llama.cpp knows",
    "ValueError",
    "kv_overrides",
    "block_count",
    model_kwargs={"kv_overrides": {"llama.block_count": 10**9}},
)
_parameter(
    "epsilon below zero",
    "ValueError",
    "epsilon",
    model_kwargs={"kv_overrides": {"llama.attention.layer_norm_rms_epsilon": -1.0}},
)
_parameter(
    "experts of a model without",
    "ValueError",
    "expert_count",
    model_kwargs={"kv_overrides": {"llama.expert_count": 10**6}},
)
_parameter(
    "metadata of another type",
    "ValueError",
    "u32",
    "thirty",
    model_kwargs={"kv_overrides": {"llama.block_count": "thirty"}},
)


@use("values of another kind in a call", Gives((["TypeError"] * 5, True)))
def values_of_another_kind_in_a_call() -> object:
    llm = make()
    wrong = ({"suffix": 5}, {"echo": "no"}, {"stop": 5}, {"logit_bias": 5}, {"top_k": "all"})
    return [error(lambda one=one: llm.invoke("x", **one)).split(":")[0] for one in wrong], works(
        llm
    )


@use("a setting of the load, set too late", Raises("AttributeError", "n_ctx=8", "model_copy"))
def a_setting_of_the_load_set_too_late() -> object:
    make().n_ctx = 8


@use("unknown name in a call", Raises("TypeError", "max_token", "'max_tokens'"))
def unknown_name_in_a_call() -> object:
    make().invoke("x", max_token=3)


@use("layers for a device that is not there", Says("UserWarning", "n_gpu_layers=20", "doctor"))
def layers_for_a_device_that_is_not_there() -> object:
    there = any(device.offloads for device in devices())
    return there or told(lambda: make(n_gpu_layers=20, isolate=False))


@use("batch larger than the context", Says("UserWarning", "n_batch=100", "n_ctx=64"))
def batch_larger_than_the_context() -> object:
    return told(lambda: make(n_ctx=64, n_batch=100).invoke("x"))


@use(
    "names of the archived class",
    Says("DeprecationWarning", "f16_kv", "n_parts", "logits_all", "lora_base", "type_k"),
)
def names_of_the_archived_class() -> object:
    return told(lambda: make(f16_kv=True, n_parts=-1, logits_all=True, lora_base="x"))


@use("numbers at their limits", Gives(True))
def numbers_at_their_limits() -> object:
    llm = make(top_k=-5, n_batch=1, stop=[f"stop {i}" for i in range(1000)], logprobs=10**5)
    llm.invoke(FRANCE, temperature=1e-38, top_p=0, min_p=1, typical_p=0, seed=2**32 - 1)
    llm.invoke(FRANCE, temperature=1e6, repeat_penalty=1e6, last_n_tokens_size=10**9)
    bans = {token: float("-inf") for token in range(49152)}
    llm.invoke(FRANCE, temperature=1, logit_bias=bans)
    return works(llm)
