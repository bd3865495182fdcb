"""A loaded model as an object with fields: how to load, what can be changed, and its end."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from helpers.checks import check_path
from helpers.engine import Engine, LoadOptions, LoadReport
from helpers.errors import ModelFileError, ServerError
from helpers.isolation import make_core
from helpers.load_options import check_option
from helpers.models import ModelInfo, default_model, inspect_model
from helpers.native import Device
from helpers.parameters import DEAD_FIELDS, load_settings, reject_unknown, warn_dead
from helpers.prompt import check_prompt
from helpers.remote.address import SERVER_VARIABLE, address_of
from helpers.threads import busy

_EITHER = {"type_k", "type_v", "flash_attn", "swa_full", "offload_kqv", "op_offload"}
"""Fields that may also be given in `model_kwargs`, where they stood before they were fields."""

_SERVERS = {field.name for field in dataclasses.fields(LoadOptions)} | {"model_kwargs"}
"""Fields that say what is loaded, and how; of a model on a server, they are the server's."""

_LOADING = _SERVERS | {"server", "key"}
"""Fields that are read when the model is loaded, and never again."""


def _expanded(path: Any) -> Any:
    return check_path("path", path) if isinstance(path, str | os.PathLike) else path


def _hidden(key: Any) -> SecretStr | None:
    """A key that no message shows."""
    if key is None or isinstance(key, SecretStr):
        return key
    if not isinstance(key, str):
        raise TypeError(f"key must be a text (str), not {type(key).__name__}.")
    return SecretStr(str.__str__(key))


File = Annotated[str, BeforeValidator(_expanded)]


class LoadingFields(BaseModel):
    """What every LangChain face of a model shares: how it is loaded, and its engine.

    A field can be set later on: it is checked as at the making. What is read when the model is
    loaded cannot: make a new model, or `llm.model_copy(update={"n_ctx": 8192})`.

    With `server`, the model is one that `python -m helpers serve` has loaded on another machine,
    or this one: what says how to load, `model_path` included, is then the server's. All else is as
    with a model loaded here, timings and grammars included.
    """

    model_config = ConfigDict(validate_assignment=True)

    model_path: File = ""
    """The GGUF file; `str` or `PathLike`, `~` is expanded. With `server`: none."""

    server: str | None = None
    """Address of a server, such as "http://127.0.0.1:8000". None: the model is loaded here; but
    where the environment has `LLAMA_NOTEBOOKS_SERVER`, a model that is `default_model()`, and of
    which nothing is said about how to load it, is that server's. `n_gpu_layers=0` says nothing: the
    notebooks give it so that their answers are the same on each machine."""

    key: Annotated[SecretStr | None, BeforeValidator(_hidden)] = Field(default=None, repr=False)
    """The key that the server knows you by; `str` or `SecretStr`. None: `LLAMA_NOTEBOOKS_KEY` of
    the environment, for the server that is named there. It is in no pickle, message or log."""

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

    lora_path: File | None = None
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

    verbose: bool = False
    """Print the load report, and one line of timings for each call, to stderr."""

    _engine: Engine = PrivateAttr()

    # -- making -----------------------------------------------------------------------------------

    def __init__(self, *args: Any, **values: Any) -> None:
        """Check the values and load the model."""
        if "key" in values:  # pydantic's messages show what was given
            values["key"] = _hidden(values["key"])
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
        self._check_values()  # before a slow load
        self._engine = self._make_engine()
        if self.verbose:
            print(self._engine.load_report, file=sys.stderr)

    def _make_engine(self) -> Engine:
        """Load the model, or connect to the server that has."""
        given = self.model_fields_set & _SERVERS
        fields = type(self).model_fields
        chosen = {
            name
            for name in given
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }
        if self.server is not None:
            if chosen:
                raise ValueError(
                    f"server={self.server!r} has loaded its own model: "
                    f"{', '.join(sorted(chosen))} cannot be given with it. Leave that out, or "
                    "leave server out to load a model here."
                )
            return self._connected(self.server)
        named = os.environ.get(SERVER_VARIABLE)
        if self.n_gpu_layers == 0:
            chosen.discard("n_gpu_layers")
        if named and chosen == {"model_path"} and self.model_path == str(default_model()):
            try:
                engine = self._connected(named)
            except ServerError as error:
                if error.code != "model_not_found":  # no model for vectors, say: one is loaded here
                    raise
            else:
                self.__dict__["server"] = named
                return engine
        if self.key is not None:
            raise ValueError("key=… is for a server: give server=…, too, or leave it out.")
        if not self.model_path:
            raise ValueError(
                f"{type(self).__name__} needs model_path=…, a GGUF file such as default_model(), "
                "or server=…, the address of a server that has loaded one."
            )
        return Engine(self._options(), make_core)

    def _connected(self, server: str, *, embeddings: bool = False) -> Engine:
        """The engine of a server."""
        from helpers.remote.engine import RemoteEngine  # httpx takes a moment

        return RemoteEngine(address_of(server, self.key), embeddings=embeddings)

    def _inspected(self) -> ModelInfo:
        """What the model's file says of it; a server tells that without the weights."""
        if self.server is None:
            return inspect_model(self.model_path)
        return inspect_model(self._engine.options.model_path, check=False)

    @property
    def _model_name(self) -> str:
        """The file's name."""
        return Path(self.model_path).name if self.server is None else self.load_report.model

    def _options(self) -> LoadOptions:
        fields = type(self).model_fields
        names = [f.name for f in dataclasses.fields(LoadOptions) if f.name in fields]
        values = {name: getattr(self, name) for name in names}
        values["model_path"] = _real_path(self.model_path, "a model")
        if self.lora_path is not None:
            values["lora_path"] = _real_path(self.lora_path, "an adapter")
        draft = check_option("speculate", values.get("speculate"))
        if draft not in (None, "lookup"):
            values["speculate"] = _real_path(draft, "a draft model")
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
            shown = "…" if name == "key" else repr(value)
            raise AttributeError(
                f"{name}={shown} cannot be set: the model was loaded with "
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
            if changes.get("server") is not None:  # a model of its own, in place of what was loaded
                given = {name: value for name, value in given.items() if name not in _SERVERS}
            return type(self)(**given | changes)
        copied = super().model_copy(deep=deep)
        copied._change(changes)
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle holds: all but the key."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "key": None}}

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
        trial._check_values()
        for name in changes:
            self.__dict__[name] = trial.__dict__[name]
            self.model_fields_set.add(name)
        for name in stale:
            self.__dict__.pop(name, None)
        self._take_over(trial)

    def _check_values(self) -> None:
        """Refuse values of fields that have no meaning, alone or together."""

    def _take_over(self, trial: Self) -> None:
        """Keep what the check of a trial's values has made."""

    # -- what there is to know --------------------------------------------------------------------

    @property
    def load_report(self) -> LoadReport:
        """What loading did: layers and MiB by device, context, flash attention, time."""
        return self._engine.load_report

    @property
    def native_log(self) -> str:
        """What llama.cpp logged while it loaded the model, debug lines included."""
        return self._engine.native_log

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


def _real_path(path: str, what: str) -> str:
    try:
        return os.path.realpath(path)  # not Path.resolve, which raises for a link to itself
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path!r} cannot be the path of {what}: {error}.") from None
