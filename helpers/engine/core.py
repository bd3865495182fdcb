"""Loading: from options to a running scheduler, every value settled and checked before."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path

from helpers.engine.lane import Lane
from helpers.engine.options import EngineOptions
from helpers.engine.report import LoadReport
from helpers.engine.scheduler import Scheduler
from helpers.engine.sequence import Job
from helpers.errors import DeviceError, HelpersError, ModelFileError
from helpers.memory.cache import kv_mib_by_layer
from helpers.models import ModelInfo, check_model_file, inspect_model
from helpers.models.overrides import check_overrides
from helpers.native import (
    Context,
    ContextParams,
    Model,
    ModelParams,
    available_mib,
    devices,
    read_buffers,
    read_flash_attention,
    read_offloaded,
    usable_cores,
)
from helpers.warn import warn_caller

_MIB = 1024 * 1024


def settle(options: EngineOptions) -> EngineOptions:
    """Check the model file and give every open option its value.

    Returns:
        Options with numbers for `n_ctx`, threads and layers, and True or False for `isolate`.

    Raises:
        ModelFileError: The file is not one that llama.cpp could load.
        DeviceError: The context does not fit the memory, or a device is missing.
        ValueError: Values that contradict each other or the model.
    """
    check_model_file(options.model_path)
    info = inspect_model(options.model_path, check=False)
    if options.lora_path is not None and not Path(options.lora_path).is_file():
        raise ModelFileError(
            f"There is no LoRA adapter at {options.lora_path}. "
            "Give the path of a GGUF adapter made for this model."
        )
    n_ctx = options.n_ctx
    if n_ctx is None:
        n_ctx = min(4096, info.n_ctx_train or 4096)
    elif n_ctx == 0:
        n_ctx = info.n_ctx_train
    elif info.n_ctx_train and n_ctx > info.n_ctx_train:
        warn_caller(
            f"n_ctx={n_ctx} is more than the {info.n_ctx_train} tokens this model was trained "
            "for: text beyond them degrades."
        )
    n_batch = options.n_batch
    if n_batch > n_ctx:
        if n_batch != EngineOptions.n_batch:
            warn_caller(f"n_batch={n_batch} is more than n_ctx={n_ctx}; {n_ctx} is used.")
        n_batch = n_ctx
    overrides = dict(options.model_settings).get("kv_overrides")
    if overrides:
        check_overrides(options.model_path, overrides)
    layers, isolate = _placement(options, info)
    settled = dataclasses.replace(
        options,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_ubatch=min(options.n_ubatch, n_batch),
        n_threads=options.n_threads or usable_cores(),
        n_threads_batch=options.n_threads_batch or options.n_threads or usable_cores(),
        n_gpu_layers=layers,
        isolate=isolate,
    )
    if not options.vocab_only:
        check_memory(settled, info)
    return settled


def _placement(options: EngineOptions, info: ModelInfo) -> tuple[int | str, bool]:
    """Layers on devices, and whether the model needs a process of its own."""
    given = options.devices
    offloading = any(device.offloads for device in devices()) if given is None else bool(given)
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


def check_memory(options: EngineOptions, info: ModelInfo, n_seq: int = 1) -> None:
    """Refuse a context that the system's memory cannot hold, before anything is allocated.

    Raises:
        DeviceError: Weights that must be read, and the KV cache, are more than is available.
    """
    assert options.n_ctx is not None
    if options.isolate and options.n_gpu_layers != 0:
        return  # (partly) in device memory: the child finds out, and may die of it
    context = sum(
        kv_mib_by_layer(
            info,
            options.n_ctx,
            options.type_k,  # type: ignore[arg-type]
            options.type_v,  # type: ignore[arg-type]
            n_seq=n_seq,
        )
    )
    weights = 0.0 if options.use_mmap or n_seq > 1 else info.file_size / _MIB
    available = available_mib()
    if context + weights > available:
        per_token = context / options.n_ctx / n_seq
        fitting = int(max(0.0, available * 0.8 - weights) / per_token / n_seq)
        raise DeviceError(
            f"n_ctx={options.n_ctx} needs {context:,.0f} MiB for the KV cache"
            + (f" of {n_seq} sequences" if n_seq > 1 else "")
            + (f" beside {weights:,.0f} MiB of weights" if weights else "")
            + f", but {available:,.0f} MiB are available. Set n_ctx={fitting // 256 * 256} or "
            'less, or type_k="q8_0" and type_v="q8_0" for about half the cache.'
        )


class LocalCore:
    """A model loaded in this process, with the thread that runs it.

    Args:
        options: Options that went through `settle`.
    """

    def __init__(self, options: EngineOptions) -> None:
        started = time.perf_counter()
        self.options = options
        self.pid = os.getpid()
        self._model = Model(options.model_path, _model_params(options))
        self.native_log = [*self._model.log]
        self._scheduler: Scheduler | None = None
        try:
            self._adapter = self._model.lora(options.lora_path) if options.lora_path else None
            if not options.vocab_only:
                if not self._model.generates:
                    raise ModelFileError(
                        f"{Path(options.model_path).name} does not generate text with a decoder "
                        "alone (an encoder, or an encoder with a decoder). Use a decoder-only "
                        "model, for example helpers.default_model()."
                    )
                assert options.n_ctx is not None
                lane = self._make_lane(options.n_ctx, 1)
                self.native_log += lane.context.log
                self._scheduler = Scheduler(self._model, self._make_lane, lane, options.n_parallel)
        except BaseException:
            self._model.close()
            raise
        self.load_report = self._report((time.perf_counter() - started) * 1000)

    @property
    def alive(self) -> bool:
        """False once the model was closed."""
        return bool(self._model.pointer)

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queue jobs; their sinks are called from the engine's thread."""
        if os.getpid() != self.pid:
            raise HelpersError(
                "This model was loaded before the process was forked and cannot be used in the "
                "child. Make the LlamaCpp in the process that uses it."
            )
        if self._scheduler is None:
            raise HelpersError(
                "This model was loaded with vocab_only=True: it can count tokens, not generate."
            )
        self._scheduler.submit(jobs)

    def cancel(self, job: Job) -> None:
        """End a job as soon as possible."""
        if self._scheduler is not None:
            self._scheduler.cancel(job)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, as a call would see it."""
        return self._model.tokenize(text)

    def close(self, *, wait: bool = True) -> None:
        """Cancel everything and free the memory."""
        if os.getpid() != self.pid:
            return
        if self._scheduler is None:
            self._model.close()
        else:
            self._scheduler.close(wait=wait)

    def _make_lane(self, n_ctx: int, n_seq: int) -> Lane:
        options = self.options
        if n_seq > 1:
            wanted = dataclasses.replace(options, n_ctx=n_ctx)
            check_memory(wanted, inspect_model(options.model_path, check=False), n_seq)
        params = ContextParams(
            n_ctx=n_ctx,
            n_seq_max=n_seq,
            n_batch=max(options.n_batch, n_seq),
            n_ubatch=options.n_ubatch,
            n_threads=options.n_threads or 1,
            n_threads_batch=options.n_threads_batch or 1,
            flash_attn=options.flash_attn,
            type_k=options.type_k,  # type: ignore[arg-type]
            type_v=options.type_v,  # type: ignore[arg-type]
            settings=options.context_settings,
        )
        context = Context(self._model, params)
        if self._adapter is not None:
            context.set_adapter(self._adapter, options.lora_scale)
        return Lane(context, n_ctx, on_cpu=options.n_gpu_layers == 0)

    def _report(self, load_ms: float) -> LoadReport:
        options, log = self.options, self.native_log
        offloaded, layers = read_offloaded(log) or (0, self._model.n_layer + 1)
        if options.n_gpu_layers == 0:
            offloaded = 0
        return LoadReport(
            model=Path(options.model_path).name,
            description=self._model.description,
            n_ctx=options.n_ctx or 0,
            n_batch=options.n_batch,
            n_gpu_layers=offloaded,
            n_layers=layers,
            by_device=read_buffers(log),
            flash_attn=read_flash_attention(log),
            n_threads=options.n_threads or 1,
            load_ms=load_ms,
        )


def _model_params(options: EngineOptions) -> ModelParams:
    names = tuple(name for name, _ in options.devices) if options.devices is not None else None
    layers = options.n_gpu_layers
    assert isinstance(layers, int)
    return ModelParams(
        n_gpu_layers=layers,
        # No layers on a device means no device at all: llama.cpp would still lend it big matrices.
        devices=() if layers == 0 else names,
        use_mmap=options.use_mmap,
        use_mlock=options.use_mlock,
        vocab_only=options.vocab_only,
        **dict(options.model_settings),
    )
