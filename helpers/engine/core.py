"""Loading: from options to a running scheduler, every value settled and checked before."""

from __future__ import annotations

import bisect
import dataclasses
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers.engine.draft import Draft
from helpers.engine.embedder import Embedder
from helpers.engine.lane import Lane, sequences_at_load
from helpers.engine.prefix_cache import PrefixCache, prefix_key
from helpers.engine.report import LoadReport
from helpers.engine.scheduler import Scheduler
from helpers.engine.sequence import Job
from helpers.errors import DeviceError, HelpersError, ModelFileError
from helpers.load_options import POOLINGS, LoadOptions
from helpers.models import ModelInfo, inspect_model
from helpers.models.adapter import check_lora_file
from helpers.models.kv_cache import kv_mib_by_layer, layer_caches, takes_back
from helpers.models.overrides import check_overrides
from helpers.models.purpose import check_embeds, check_generates
from helpers.models.trial import try_first
from helpers.models.watch import Watch
from helpers.native import (
    Context,
    Model,
    Vectors,
    available_mib,
    devices,
    read_buffers,
    read_flash_attention,
    read_offloaded,
    usable_cores,
)
from helpers.threads import aside
from helpers.warn import warn_caller

_MIB = 1024 * 1024
_LONG_TEXT = 2**16
"""Characters that may take longer to be made into tokens than Ctrl-C should wait (0.15 s)."""


def settle(options: LoadOptions) -> LoadOptions:
    """Check the model file and give every open option its value.

    Returns:
        Options with numbers for `n_ctx`, threads and layers, and True or False for `isolate`.

    Raises:
        ModelFileError: The file is not one that llama.cpp could load.
        DeviceError: The context does not fit the memory, or a device is missing.
        ValueError: Values that contradict each other or the model.
    """
    headers = check_overrides(options.model_path, options.kv_overrides)
    if not options.vocab_only:
        (check_embeds if options.embeddings else check_generates)(headers[0])
    if options.lora_path is not None:
        check_lora_file(options.lora_path, headers)
    info = inspect_model(options.model_path, check=False)
    fitted = options.for_model(info.n_ctx_train)
    if options.embeddings and _has_positions(info) and (options.n_ctx or 0) > info.n_ctx_train:
        raise ValueError(
            f"n_ctx={options.n_ctx} is more than the {info.n_ctx_train} positions that "
            f"{info.path.name} knows. Set n_ctx={info.n_ctx_train} or less, and split longer texts."
        )
    if info.n_ctx_train and (options.n_ctx or 0) > info.n_ctx_train:
        warn_caller(
            f"n_ctx={options.n_ctx} is more than the {info.n_ctx_train} tokens this model was "
            "trained for: text beyond them degrades."
        )
    if not options.embeddings and fitted.n_batch < options.n_batch != LoadOptions.n_batch:
        warn_caller(
            f"n_batch={options.n_batch} is more than n_ctx={fitted.n_ctx}; {fitted.n_ctx} is used."
        )
    experts_on_cpu = min(options.n_cpu_moe, info.n_layers)
    if experts_on_cpu and not info.n_experts:
        warn_caller(
            f"n_cpu_moe={options.n_cpu_moe} has no effect: {info.path.name} is not a mixture of "
            "experts."
        )
        experts_on_cpu = 0
    speculate = options.speculate
    if speculate is not None and not takes_back(info, swa_full=options.swa_full):
        warn_caller(
            f"speculate={speculate!r} has no effect: {info.path.name} has layers that cannot "
            "forget a token that was guessed wrong (recurrent ones, or a sliding window without "
            "swa_full=True)."
        )
        speculate = None
    layers, isolate = _placement(options, info)
    settled = dataclasses.replace(
        fitted.for_layers(layers),
        n_threads=options.n_threads or usable_cores(),
        n_threads_batch=options.n_threads_batch or options.n_threads or usable_cores(),
        n_cpu_moe=experts_on_cpu,
        speculate=speculate,
        isolate=isolate,
    )
    if settled.draft_path is not None:
        check_draft(settled)
    if not options.vocab_only:
        check_memory(settled, info, sequences_at_load(settled))
    if not isolate:
        try_first(settled, headers)
    return settled


def _has_positions(info: ModelInfo) -> bool:
    """Whether positions are rows of a table: beyond its end is an assertion in ggml."""
    return any(tensor.name == "position_embd.weight" for tensor in info.tensors)


def check_draft(options: LoadOptions) -> ModelInfo:
    """Check the file of a draft model as far as its header tells.

    Raises:
        ModelFileError: It is not a model that could guess, or be loaded.
    """
    assert options.draft_path is not None
    headers = check_overrides(options.draft_path, ())
    check_generates(headers[0])
    info = inspect_model(options.draft_path, check=False)
    if not takes_back(info):
        raise ModelFileError(
            f"{info.path.name} cannot be a draft model: it has layers that cannot forget a token "
            'that was guessed wrong. Use a smaller model of the same family, or speculate="lookup".'
        )
    if not options.isolate:
        try_first(options.for_draft(), headers)
    return info


def _placement(options: LoadOptions, info: ModelInfo) -> tuple[int | str, bool]:
    """Layers on devices, and whether the model needs a process of its own."""
    given = options.devices
    here = {device.name: device.offloads for device in devices()}
    if given is None:
        offloading = any(here.values())
    else:  # an RPC server's device is not here; a name that nobody has is refused at the load
        offloading = any(endpoint is not None or here.get(name, True) for name, endpoint in given)
    layers = options.n_gpu_layers
    if not offloading:
        if isinstance(layers, int) and layers != 0:
            warn_caller(
                f"n_gpu_layers={layers}, but this llama-cpp-python has no GPU device: all layers "
                "stay on the CPU. Check with: python3 -m helpers doctor"
            )
        layers = 0
    elif isinstance(layers, int) and layers > info.n_layers + 1:
        warn_caller(
            f"n_gpu_layers={layers} is more than this model's {info.n_layers + 1} layers "
            f"({info.n_layers} blocks and the output); all are offloaded."
        )
        layers = -1
    remote = [name for name, endpoint in given or () if endpoint is not None]
    if remote and layers != 0 and options.isolate is False:
        raise DeviceError(
            f"{remote[0]} is served by another process, and llama.cpp ends its own process when "
            'it loses that one. Leave isolate at "auto", or set it to True.'
        )
    isolate = layers != 0 if options.isolate == "auto" else bool(options.isolate)
    return layers, isolate


def check_memory(
    options: LoadOptions, info: ModelInfo, n_seq: int = 1, *, loaded: bool = False
) -> None:
    """Refuse a context that the system's memory cannot hold, before anything is allocated.

    Args:
        options: How the context would be made.
        info: The model.
        n_seq: Sequences of the context.
        loaded: The weights are in the memory already.

    Raises:
        DeviceError: Weights that must be read, and the KV cache, are more than is available.
    """
    assert options.n_ctx is not None
    if options.isolate and options.n_gpu_layers != 0:
        return  # (partly) in device memory: the child finds out, and may die of it
    layers = layer_caches(info)

    # With vectors, llama.cpp keeps room for the logits of all tokens, too.
    outputs_mib = 2 * 4 * info.n_vocab / _MIB if options.embeddings else 0.0  # of a token

    def context_mib(n_ctx: int) -> float:
        caches = kv_mib_by_layer(
            layers,
            n_ctx,
            options.type_k,  # type: ignore[arg-type]
            options.type_v,  # type: ignore[arg-type]
            n_seq=n_seq,
            swa_full=options.swa_full,
            n_ubatch=options.n_ubatch,
        )
        return outputs_mib * n_ctx + sum(caches)

    context = context_mib(options.n_ctx)
    weights = 0.0 if options.use_mmap or loaded else info.file_size / _MIB
    available = available_mib()
    if context + weights > available:
        room = available * 0.8 - weights
        fitting = 256 * bisect.bisect_right(range(256, options.n_ctx, 256), room, key=context_mib)
        fewer = f"n_parallel to less than {n_seq}, or " if n_seq > 1 and not loaded else ""
        remedy = (
            f"Set {fewer}n_ctx={fitting} or less, or "
            'type_k="q8_0" and type_v="q8_0" for about half the cache.'
            if fitting
            else "Take a smaller model, or let use_mmap map its file."
        )
        raise DeviceError(
            f"n_ctx={options.n_ctx} needs {context:,.0f} MiB for the KV cache"
            + (f" of {n_seq} sequences" if n_seq > 1 else "")
            + (f" beside {weights:,.0f} MiB of weights" if weights else "")
            + f", but {available:,.0f} MiB are available. {remedy}"
        )


class LocalCore:
    """A model loaded in this process, with the thread that runs it.

    Args:
        options: Options that went through `settle`.
    """

    def __init__(self, options: LoadOptions) -> None:
        self.options = options
        self.pid = os.getpid()
        self._model: Model | None = None
        self._scheduler: Scheduler | None = None
        self._embedder: Embedder | None = None
        self.native_log: list[tuple[int, str]] = []
        self._draft_log: list[tuple[int, str]] = []
        self._handing_over = threading.Lock()
        self._stop = threading.Event()
        self._loaded = False
        aside(self._load, self._abandon)

    def _load(self) -> None:
        started = time.perf_counter()
        try:
            self._fill()
            self.load_report = self._report((time.perf_counter() - started) * 1000)
            self.native_log += self._draft_log
            with self._handing_over:
                if self._stop.is_set():
                    raise HelpersError("The load was stopped before it had ended.")
                self._loaded = True
        except BaseException:
            self.close()
            raise

    def _abandon(self) -> None:
        """Nobody waits for the load any more."""
        with self._handing_over:
            self._stop.set()
        if self._loaded:
            self.close()

    def _fill(self) -> None:
        """Load the model and make its context."""
        options = self.options
        watch = Watch(options.model_path) if options.use_mmap else None
        try:
            self._info = inspect_model(options.model_path)  # what is watched is what was checked
            key = prefix_key(options) if options.cache_dir else ""
            self._model = model = Model(options, stop=self._stop, watch=watch)
        except BaseException:
            if watch is not None:
                watch.close()
            raise
        self.native_log += model.log
        self._adapter = model.lora(options.lora_path) if options.lora_path else None
        if options.vocab_only:
            return
        if options.embeddings:
            self._embedder = Embedder(model, options)
            self.native_log += self._embedder.context.log
            if self._adapter is not None:
                self._embedder.context.set_adapter(self._adapter, options.lora_scale)
            return
        if not model.generates:
            raise ModelFileError(
                f"{Path(options.model_path).name} does not generate text with a decoder alone (an "
                "encoder, or an encoder with a decoder). Use a decoder-only model, for example "
                "helpers.default_model()."
            )
        assert options.n_ctx is not None
        lane = self._make_lane(options.n_ctx, sequences_at_load(options))
        self.native_log += lane.context.log
        prefixes = PrefixCache(model, options, key) if options.cache_dir else None
        draft = Draft(options, model) if options.draft_path is not None else None
        self._draft_log = draft.log if draft is not None else []
        self._scheduler = Scheduler(
            model, self._make_lane, lane, options.n_parallel, prefixes, draft
        )

    @property
    def alive(self) -> bool:
        """False once the model was closed, or its file was changed in place."""
        model = self._model
        return model is not None and model.usable

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queue jobs; their sinks are called from the engine's thread."""
        self._check_process()
        if self._embedder is not None:
            raise HelpersError("This model was loaded for embeddings: it generates no text.")
        if self._scheduler is None:
            raise HelpersError(
                "This model was loaded with vocab_only=True: it can count tokens, not generate."
            )
        self._scheduler.submit(jobs)

    def cancel(self, job: Job) -> None:
        """End a job as soon as possible."""
        if self._scheduler is not None:
            self._scheduler.cancel(job)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[Vectors]:
        """The vectors of texts, given as tokens, that are computed in one decode."""
        self._check_process()
        if self._embedder is None:
            raise HelpersError("This model was not loaded for embeddings.")
        return self._embedder.embed(texts)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, as a call would see it."""
        self._check_process()
        model = self._model
        assert model is not None
        if len(text) < _LONG_TEXT:
            return model.tokenize(text)
        return aside(lambda: model.tokenize(text), lambda: None)

    def tokenize_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` for several prompts."""
        return [self.tokenize(text) for text in texts]

    def _check_process(self) -> None:
        if os.getpid() != self.pid:
            raise HelpersError(
                "This model was loaded before the process was forked and cannot be used in the "
                "child. Make the LlamaCpp in the process that uses it."
            )

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything and free the memory."""
        if os.getpid() != self.pid:
            return
        if self._embedder is not None:
            self._embedder.close()
        if self._scheduler is not None:
            self._scheduler.close(wait=wait)
        elif self._model is not None:
            self._model.close()

    def _make_lane(self, n_ctx: int, n_seq: int) -> Lane:
        options = dataclasses.replace(self.options, n_ctx=n_ctx)
        if n_seq > 1:
            check_memory(options, self._info, n_seq, loaded=True)
        assert self._model is not None
        context = Context(self._model, options, n_seq)
        if self._adapter is not None:
            context.set_adapter(self._adapter, options.lora_scale)
        return Lane(context, n_ctx, on_cpu=options.n_gpu_layers == 0)

    def _report(self, load_ms: float) -> LoadReport:
        options, log, model = self.options, self.native_log, self._model
        assert model is not None
        offloaded, layers = read_offloaded(log) or (0, model.n_layer + 1)
        if options.n_gpu_layers == 0:
            offloaded = 0
        return LoadReport(
            model=Path(options.model_path).name,
            description=model.description,
            n_ctx=options.n_ctx or 0,
            n_batch=options.n_batch,
            n_gpu_layers=offloaded,
            n_layers=layers,
            by_device=read_buffers([*log, *self._draft_log]),
            flash_attn=read_flash_attention(log),
            n_threads=options.n_threads or 1,
            load_ms=load_ms,
            pooling=POOLINGS[self._embedder.context.pooling] if self._embedder else None,
        )
