"""The fields of a llama.cpp model in LangChain: loading, sampling, and what there is to know."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from helpers.checks import check_path
from helpers.engine import Engine, LoadOptions, LoadReport, Request
from helpers.engine.options import stop_strings
from helpers.errors import ModelFileError
from helpers.grammars import Grammar
from helpers.isolation import make_core
from helpers.llm.results import LastTimings
from helpers.native import Device
from helpers.parameters import DEAD_FIELDS, load_settings, reject_unknown, warn_dead
from helpers.prompt import check_prompt
from helpers.threads import busy
from helpers.timings import Timings

SAMPLING = tuple(
    field.name
    for field in dataclasses.fields(Request)
    if field.name
    not in {"prompt", "stop", "grammar", "last_n", "fast_forward", "shown_tokens", "reasoning"}
)
"""What fields, calls and requests call by the same name."""

PER_CALL = (*SAMPLING, "last_n_tokens_size", "grammar", "grammar_path")
"""Fields that can also be given per call."""

_EITHER = {"type_k", "type_v", "flash_attn", "swa_full", "offload_kqv", "op_offload"}
"""Fields that may also be given in `model_kwargs`, where they stood before they were fields."""

_LOADING = {field.name for field in dataclasses.fields(LoadOptions)} | {"model_kwargs"}
"""Fields that are read when the model is loaded, and never again."""

_SAME_ANSWER = {
    "prompt", "isolate", "n_parallel", "use_mmap", "use_mlock", "check_tensors", "no_perf",
}  # fmt: skip
"""What `LoadOptions` and `Request` have and no answer depends on."""


def _expanded(path: Any) -> Any:
    return check_path("path", path) if isinstance(path, str | os.PathLike) else path


def _alone_or_listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_File = Annotated[str, BeforeValidator(_expanded)]


class ModelFields(BaseModel):
    """What every LangChain face of a model shares: its fields, its engine, its requests.

    A field can be set later on: it is checked as at the making. What is read when the model is
    loaded cannot: make a new model, or `llm.model_copy(update={"n_ctx": 8192})`.
    """

    model_config = ConfigDict(validate_assignment=True)

    model_path: _File
    """The GGUF file; `str` or `PathLike`, `~` is expanded."""

    # -- loading

    n_ctx: int | None = None
    """Tokens of context per sequence, prompt and answer together. None: 4096 or the model's own
    if smaller; 0: what the model was trained with."""

    n_batch: int | None = LoadOptions.n_batch
    """Tokens handed to llama.cpp in one decode, 1 to `n_ctx`."""

    n_gpu_layers: int | str | None = LoadOptions.n_gpu_layers
    """Layers to place on devices: "auto" what fits, -1 all, 0 none."""

    devices: Sequence[Device] | None = None
    """Devices to use, from `helpers.devices()`; None for all."""

    isolate: bool | str = LoadOptions.isolate
    """Run the model in a child process that may die without the kernel: True, False, or "auto"
    (as soon as a device other than the CPU is used)."""

    n_parallel: int = LoadOptions.n_parallel
    """Most sequences that `batch` decodes side by side, 1 to 256."""

    n_threads: int | None = None
    """Compute threads. None: the physical cores that this process may use."""

    use_mmap: bool | None = LoadOptions.use_mmap
    """Map the file instead of reading it. A file that is written to while it is mapped is noticed
    before each token, and the call ended; one that is cut off in the middle of computing a token
    ends the process, which `isolate=True` or `use_mmap=False` keeps from the kernel."""

    use_mlock: bool = LoadOptions.use_mlock
    """Keep the weights from being swapped out."""

    vocab_only: bool = LoadOptions.vocab_only
    """Load the vocabulary alone: counts tokens, cannot generate."""

    lora_path: _File | None = None
    """A LoRA adapter (GGUF) made for this model; `str` or `PathLike`, `~` is expanded."""

    rope_freq_base: float = 0.0
    """Base frequency of the rotary positions; 0: the file's own."""

    rope_freq_scale: float = 0.0
    """Scale of the rotary positions; 0: the file's own."""

    type_k: str | int | None = None
    """Type of the K cache, for example "q8_0"; None: f16."""

    type_v: str | int | None = None
    """Type of the V cache; None: f16. A quantized one needs flash attention."""

    flash_attn: bool | None = None
    """Flash attention; None: where the backend has it."""

    n_cpu_moe: int = LoadOptions.n_cpu_moe
    """The experts of so many blocks, counted from the first, stay on the CPU, whatever device has
    the rest of those blocks: for a mixture of experts that does not fit the device as a whole."""

    swa_full: bool = LoadOptions.swa_full
    """Layers with a sliding window keep the whole context, not the window alone: more memory, and
    a prompt that goes back further than the window need not be computed again."""

    offload_kqv: bool = LoadOptions.offload_kqv
    """The KV cache of a layer is on the layer's device; False keeps it on the CPU."""

    op_offload: bool = LoadOptions.op_offload
    """Large matrices of layers on the CPU may be computed by a device."""

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further options of `helpers.load_options.LoadOptions`, whose names are those of
    `llama_cpp.Llama`, for example `{"n_ubatch": 256}`."""

    # -- sampling; each can also be given per call

    max_tokens: int | None = 256
    """Most tokens to generate; None, 0 or -1: until the context is full."""

    temperature: float | None = 0.8
    """0 takes the likeliest token each time; higher values vary more."""

    top_k: int | None = 40
    """Draw from the k likeliest tokens; 0: from all."""

    top_p: float | None = 0.95
    """Draw from the likeliest tokens that make up this probability, 0 to 1."""

    min_p: float = 0.05
    """Leave out tokens below this share of the likeliest one's probability, 0 to 1."""

    typical_p: float = 1.0
    """Locally typical sampling, 0 to 1; 1 is off."""

    repeat_penalty: float | None = 1.1
    """Above 1 makes the answer's recent tokens less likely; 1 is off."""

    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each recent occurrence."""

    presence_penalty: float = 0.0
    """Subtracted once from the logit of each recent token."""

    last_n_tokens_size: int | None = 64
    """How many of the answer's tokens the penalties look at; -1: all."""

    seed: int | None = -1
    """Same seed, same text; -1: a random one for each call."""

    stop: Annotated[list[str] | None, BeforeValidator(_alone_or_listed)] = None
    """Strings that end the answer, or one; they are not part of it. A call's own are added."""

    logprobs: int | None = None
    """Log probabilities of this many likeliest tokens, in `generation_info["logprobs"]`."""

    logit_bias: dict[int, float] | None = None
    """Values to add to the logits of tokens."""

    echo: bool | None = False
    """Begin the answer with the prompt."""

    suffix: str | None = None
    """Text to put after the answer."""

    grammar: Any = None
    """What the answer must match: a `Grammar`, or GBNF as a string. A token is chosen as without a
    grammar; if the grammar refuses it, once more by the same settings from what is allowed."""

    grammar_path: str | Path | None = None
    """A GBNF file instead of `grammar`."""

    verbose: bool = False
    """Print the load report, and one line of timings for each call, to stderr."""

    _engine: Engine = PrivateAttr()
    _checked: tuple[Any, Any, Grammar | None] = PrivateAttr(default=(None, None, None))
    _timings: LastTimings = PrivateAttr(default_factory=LastTimings)

    # -- making -----------------------------------------------------------------------------------

    def __init__(self, *args: Any, **values: Any) -> None:
        """Check the values and load the model."""
        with busy():  # pydantic's checks are Rust, and call what loads
            super().__init__(*args, **values)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        return cls._known(values) if isinstance(values, Mapping) else values

    @classmethod
    def _known(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of fields, without those that are dead, which are warned of."""
        values = dict(values)
        for name in [name for name in values if name in DEAD_FIELDS]:
            value = values.pop(name)
            warn_dead(cls.__name__, name, DEAD_FIELDS[name])
            if name == "callback_manager" and value is not None:
                values.setdefault("callbacks", value)
        reject_unknown(values, cls.model_fields, cls.__name__)
        return values

    def model_post_init(self, context: Any, /) -> None:
        """Check the grammar, then load the model."""
        super().model_post_init(context)
        self._request("")  # refuses a grammar or sampling values before a slow load
        self._engine = Engine(self._options(), make_core)
        if self.verbose:
            print(self._engine.load_report, file=sys.stderr)

    def _options(self) -> LoadOptions:
        fields = type(self).model_fields
        names = [f.name for f in dataclasses.fields(LoadOptions) if f.name in fields]
        values = {name: getattr(self, name) for name in names}
        values["model_path"] = _real_path(self.model_path, "a model")
        if self.lora_path is not None:
            values["lora_path"] = _real_path(self.lora_path, "an adapter")
        if self.n_gpu_layers is None:
            values["n_gpu_layers"] = 0
        if self.devices is not None:
            values["devices"] = tuple((device.name, device.endpoint) for device in self.devices)
        given = {name: value for name, value in values.items() if value is not None}
        return LoadOptions(**given | load_settings(self.model_kwargs, set(fields) - _EITHER))

    # -- changing ---------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, checked as at the making.

        Raises:
            AttributeError: It is a field that was read when the model was loaded.
            TypeError: There is no such field, or the value is of the wrong kind.
            ValueError: The value has no meaning.
        """
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        changes = self._known({name: value})
        if self._reloads(changes):
            raise AttributeError(
                f"{name}={value!r} cannot be set: the model was loaded with "
                f"{name}={getattr(self, name)!r}. Make a new {type(self).__name__}, or "
                f"llm.model_copy(update={{{name!r}: …}}), which loads it anew."
            )
        self._change(changes)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that shares the loaded model, with some fields changed.

        Args:
            update: Fields to change, checked as at the making. A change of what is read when the
                model is loaded loads a second one; close the first if it is not needed.
            deep: Copy what the fields hold, too.

        Returns:
            The copy.
        """
        changes = self._known(update or {})
        if self._reloads(changes):
            given = {name: getattr(self, name) for name in self.model_fields_set}
            return type(self)(**given | changes)
        copied = super().model_copy(deep=deep)
        copied._change(changes)
        return copied

    def __copy__(self) -> Self:
        """A copy that shares the loaded model; closing one does not close the other."""
        copied = super().__copy__()
        copied._engine = copy(self._engine)
        return copied

    def _reloads(self, changes: Mapping[str, Any]) -> bool:
        return any(
            name in _LOADING and value != getattr(self, name) for name, value in changes.items()
        )

    def _change(self, changes: Mapping[str, Any]) -> None:
        """Take values over after a trial, which a call in another thread does not see."""
        trial = BaseModel.__copy__(self)
        stale = trial.__dict__.keys() - type(self).model_fields  # LangChain's text about the fields
        for name in stale:
            del trial.__dict__[name]
        for name, value in changes.items():
            BaseModel.__setattr__(trial, name, value)
        trial._request("")
        for name in changes:
            self.__dict__[name] = trial.__dict__[name]
            self.model_fields_set.add(name)
        for name in stale:
            self.__dict__.pop(name, None)
        self._checked = trial._checked

    # -- what there is to know --------------------------------------------------------------------

    @property
    def load_report(self) -> LoadReport:
        """What loading did: layers and MiB by device, context, flash attention, time."""
        return self._engine.load_report

    @property
    def native_log(self) -> str:
        """What llama.cpp logged while it loaded the model, debug lines included."""
        return self._engine.native_log

    @property
    def last_timings(self) -> Timings | None:
        """Timings of the last call made by this thread or task; None before the first.

        A chain runs its steps in tasks of their own when it is awaited; there, read the timings
        from the result's `generation_info` or with a `TimingsRecorder`.
        """
        return self._timings.get()

    def get_token_ids(self, text: str) -> list[int]:
        """The tokens that this model makes of a prompt, as a call would see them."""
        return self._engine.tokenize(check_prompt("text", text))

    def get_num_tokens(self, text: str) -> int:
        """How many tokens a prompt has for this model, exactly."""
        return len(self.get_token_ids(text))

    def close(self) -> None:
        """End the use of the model; calls of this object in progress end with an error.

        The memory, device memory included, is free when no other object shares the model.
        """
        self._engine.close()

    def __enter__(self) -> Self:
        """Use the model in a `with` block; it is closed at its end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()

    # -- calls ------------------------------------------------------------------------------------

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that decides an answer: what LangChain's caches and tracers know a model by.

        It is taken from what the engine is given, so that no field can be forgotten.
        """
        request = self._request("")
        found = {
            field.name: getattr(given, field.name)
            for given in (self._engine.options, request)
            for field in dataclasses.fields(given)
            if field.name not in _SAME_ANSWER
        }
        if request.grammar is not None:
            found["grammar"] = f"{request.grammar!r}, SHA-256 {request.grammar.key}"
        # LangChain writes a call's strings over "stop".
        found["stop_strings"] = found.pop("stop")
        return {**found, "files": self._engine.files}

    def _for_call(self, stop: Any, given: Mapping[str, Any]) -> Self:
        """This model with a call's parameters as its fields, its stop strings added to its own."""
        reject_unknown(given, PER_CALL, f"A call of {type(self).__name__}")
        changes = dict(given)
        if "grammar" in given or "grammar_path" in given:  # instead of one's own, whichever it is
            changes = {"grammar": None, "grammar_path": None} | changes
        changes["stop"] = [*stop_strings(self.stop), *stop_strings(stop)]
        caller = BaseModel.__copy__(self)
        caller.__dict__.update(changes)  # the request checks them
        return caller

    def _request(
        self, prompt: str, stop: Any = None, given: Mapping[str, Any] | None = None
    ) -> Request:
        """What the engine is asked; a call's parameters go before the fields."""
        if stop or given:
            return self._for_call(stop, given or {})._request(prompt)
        values = {name: getattr(self, name) for name in (*SAMPLING, "last_n_tokens_size")}
        values["last_n"] = values.pop("last_n_tokens_size")
        defaults = Request.__dataclass_fields__
        for name, value in values.items():
            if value is None and name != "max_tokens":
                values[name] = defaults[name].default
        bias = values["logit_bias"] or {}
        if not isinstance(bias, Mapping):
            raise TypeError(f"logit_bias={bias!r} must be a dict from tokens to numbers.")
        values["logit_bias"] = tuple(bias.items())
        return Request(
            prompt=prompt, stop=stop_strings(self.stop), grammar=self._own_grammar(), **values
        )

    def _own_grammar(self) -> Grammar | None:
        """The grammar of the fields, read and checked again only when one of them has changed."""
        grammar, path, checked = self._checked
        if grammar is not self.grammar or path != self.grammar_path:
            checked = _as_grammar(self.grammar, self.grammar_path)
            self._checked = (self.grammar, self.grammar_path, checked)
        return checked


def _real_path(path: str, what: str) -> str:
    try:
        return os.path.realpath(path)  # not Path.resolve, which raises for a link to itself
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path!r} cannot be the path of {what}: {error}.") from None


def _as_grammar(grammar: Any, path: str | Path | None) -> Grammar | None:
    """One checked grammar from what a field or a call may hold."""
    if grammar is not None and path is not None:
        raise ValueError(f"Give grammar or grammar_path, not both (grammar_path={str(path)!r}).")
    if path is not None:
        return Grammar.from_file(check_path("grammar_path", path))
    if grammar is None or isinstance(grammar, Grammar):
        return grammar
    if isinstance(grammar, str):
        return Grammar.from_string(grammar)
    if isinstance(grammar, os.PathLike):
        return Grammar.from_file(check_path("grammar", grammar))
    source = getattr(grammar, "_grammar", None)  # llama_cpp.LlamaGrammar keeps its text there
    if isinstance(source, str):
        return Grammar.from_string(source)
    raise TypeError(
        f"grammar={grammar!r} must be a helpers.Grammar, GBNF as a string, or a path. "
        "For a schema: Grammar.from_json_schema(schema), Grammar.from_pydantic(Model)."
    )
