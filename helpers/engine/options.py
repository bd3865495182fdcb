"""What an engine is told: how to load a model (`EngineOptions`), what to generate (`Request`)."""

from __future__ import annotations

import dataclasses
import math
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from helpers.models.kv_cache import kv_type
from helpers.timings import Timings

if TYPE_CHECKING:
    from helpers.grammars import Grammar

MAX_THREADS = 512
"""`GGML_MAX_N_THREADS`: more threads than that is an assertion inside ggml."""

MAX_SEQUENCES = 256
"""`LLAMA_MAX_SEQ`."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to load a model. Two engines with equal options share one loaded model.

    Attributes:
        model_path: The GGUF file.
        n_ctx: Tokens of context per sequence; 0 for what the model was trained with; None for
            4096 or the model's own if smaller.
        n_batch: Tokens handed to llama.cpp in one decode, 1 to `n_ctx`.
        n_ubatch: Tokens computed at once, at most `n_batch`.
        n_gpu_layers: Layers on devices; -1 all; "auto" what fits (0 without such a device).
        devices: `(name, endpoint)` of the devices to use, or None for all; the endpoint is the
            `host:port` of an RPC server, else None.
        n_threads: Compute threads for single tokens; None for the physical cores this process
            may use.
        n_threads_batch: Compute threads for prompts; None for the same.
        n_parallel: Most sequences decoded side by side, 1 to 256.
        type_k: Type of the K cache, one of `helpers.models.kv_cache.KV_TYPES`, by name or number.
        type_v: Type of the V cache, likewise.
        flash_attn: True, False, or None to use it where the backend has it.
        use_mmap: Map the file instead of reading it.
        use_mlock: Keep the weights from being swapped out.
        vocab_only: Load the vocabulary alone: tokens can be counted, nothing generated.
        lora_path: A LoRA adapter in GGUF form, or None.
        lora_scale: Strength of the adapter.
        isolate: Run in a child process: True, False, or "auto" (as soon as a device other than
            the CPU is used).
        model_settings: Further fields of `helpers.native.ModelParams`, as sorted pairs.
        context_settings: Further fields of `llama_context_params`, as sorted pairs.
    """

    model_path: str
    n_ctx: int | None = None
    n_batch: int = 512
    n_ubatch: int = 512
    n_gpu_layers: int | str = "auto"
    devices: tuple[tuple[str, str | None], ...] | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    n_parallel: int = 8
    type_k: str | int | None = None
    type_v: str | int | None = None
    flash_attn: bool | None = None
    use_mmap: bool = True
    use_mlock: bool = False
    vocab_only: bool = False
    lora_path: str | None = None
    lora_scale: float = 1.0
    isolate: bool | str = "auto"
    model_settings: tuple[tuple[str, Any], ...] = ()
    context_settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that have no meaning; what depends on the file is checked later."""
        _check_range("n_ctx", self.n_ctx, 0, 2**31 // MAX_SEQUENCES)
        _check_range("n_batch", self.n_batch, 1, 2**20)
        _check_range("n_ubatch", self.n_ubatch, 1, 2**20)
        _check_range("n_threads", self.n_threads, 1, MAX_THREADS)
        _check_range("n_threads_batch", self.n_threads_batch, 1, MAX_THREADS)
        _check_range("n_parallel", self.n_parallel, 1, MAX_SEQUENCES)
        if isinstance(self.n_gpu_layers, str):
            _check_choice("n_gpu_layers", self.n_gpu_layers, ("auto",))
        else:
            _check_range("n_gpu_layers", self.n_gpu_layers, -1, 2**31 - 1)
        if isinstance(self.isolate, str):
            _check_choice("isolate", self.isolate, ("auto",))
        if self.flash_attn is not None and not isinstance(self.flash_attn, bool):
            raise ValueError(f"flash_attn={self.flash_attn!r} must be True, False or None.")
        _check_range("lora_scale", self.lora_scale, -1e6, 1e6)
        for name in ("type_k", "type_v"):
            object.__setattr__(self, name, kv_type(name, getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to generate.

    Attributes:
        prompt: The text to continue, special tokens such as `<|im_start|>` read as such; or
            token ids, taken as they are.
        max_tokens: Most tokens to generate; None, 0 or -1: until the context is full.
        temperature: 0 takes the likeliest token; above, draws.
        top_k: Draw from the k likeliest tokens; 0 or less: from all.
        top_p: Draw from the likeliest tokens that make up this probability, 0 to 1.
        min_p: Leave out tokens below this share of the likeliest one's probability, 0 to 1.
        typical_p: Locally typical sampling, 0 to 1; 1 is off.
        repeat_penalty: Above 1 makes tokens of the answer's last `last_n` less likely; 1 is off.
        frequency_penalty: Subtracted from a token's logit for each time it occurred there.
        presence_penalty: Subtracted once from the logit of each token that occurred there.
        last_n: Tokens of the answer that the penalties look at; 0 for none, -1 for all.
        seed: Same seed, same text; None or -1 for a random one.
        stop: Strings that end the text.
        grammar: What the text must match, or None. A token is chosen as without a grammar; if the
            grammar refuses it, once more by the same settings from what the grammar allows. With a
            temperature alone that is exactly the model's distribution among the allowed tokens.
        fast_forward: Decode tokens that the grammar leaves no choice for together; such a text is
            then cut into tokens as the tokenizer does it, where the model might have chosen others.
        logprobs: Give the log probabilities of this many likeliest tokens, or None.
        logit_bias: `(token, value)` pairs added to logits; minus infinity bans a token.
        echo: Begin the text with the prompt.
        suffix: End the text with this, or None.
    """

    prompt: str | tuple[int, ...]
    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    last_n: int = 64
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    fast_forward: bool = True
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    echo: bool = False
    suffix: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        _check_range("max_tokens", self.max_tokens, -1, 2**31 - 1)
        _check_range("temperature", self.temperature, 0.0, 1e6)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("typical_p", self.typical_p, 0.0, 1.0)
        _check_range("repeat_penalty", self.repeat_penalty, 1e-6, 1e6)
        _check_range("frequency_penalty", self.frequency_penalty, -1e6, 1e6)
        _check_range("presence_penalty", self.presence_penalty, -1e6, 1e6)
        _check_range("top_k", self.top_k, -(2**31), 2**31 - 1)
        _check_range("last_n", self.last_n, -1, 2**31 - 1)
        _check_range("seed", self.seed, -1, 2**32 - 1)
        _check_range("logprobs", self.logprobs, 0, 100_000)
        if any(not isinstance(stop, str) or not stop for stop in self.stop):
            raise ValueError(f"stop={list(self.stop)!r} must be a list of strings, none empty.")
        for token, value in self.logit_bias:
            if isinstance(token, bool) or not isinstance(token, int):
                raise TypeError(f"logit_bias: the token {token!r} must be a whole number.")
            if token < 0:
                raise ValueError(f"logit_bias: {token} is no token; they begin at 0.")
            if value != -math.inf:  # which bans the token
                _check_range(f"logit_bias[{token}]", value, -1e6, 1e6)

    def seed_or_random(self) -> int:
        """The seed, or a random one where none was given."""
        if self.seed is None or self.seed < 0:
            return secrets.randbelow(2**32 - 1)
        return self.seed

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {
            name: getattr(self, name)
            for name, default in defaults.items()
            if getattr(self, name) != default
        }


@dataclass(frozen=True)
class Chunk:
    """A piece of a text while it is generated: at least one whole character, or log probabilities.

    Attributes:
        text: The new text.
        logprobs: One entry for each token since the last chunk, where asked for.
    """

    text: str
    logprobs: dict[str, list[Any]] | None = None


@dataclass(frozen=True)
class Completion:
    """A generated text and what it took.

    Attributes:
        text: The text, without stop strings.
        finish_reason: "stop" (end of text, or a stop string), "length" (`max_tokens` or the
            context was reached) or "cancelled".
        timings: What the call took.
        prompt_tokens: Tokens of the prompt.
        generated_tokens: Tokens of the answer.
        logprobs: Log probabilities of the whole answer, where asked for.
    """

    text: str
    finish_reason: str
    timings: Timings
    prompt_tokens: int
    generated_tokens: int
    logprobs: dict[str, list[Any]] | None = field(default=None, repr=False)


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} must be a number.")
    if math.isnan(value) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} is out of range: {low:g} to {high:g}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}={value!r} must be a number or {known}.")
