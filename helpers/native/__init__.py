"""The only room with ctypes: what llama.cpp offers below LangChain, made safe to call."""

from helpers.native._context import Context, ContextParams, DecodeAborted, PerfCounters
from helpers.native._devices import Device, available_mib, devices, shared_libraries, usable_cores
from helpers.native._log import LogCapture, capture_log, keep_quiet, recent_warnings
from helpers.native._model import Model, ModelParams
from helpers.native._sampler import SamplerChain

__all__ = [
    "Context",
    "ContextParams",
    "DecodeAborted",
    "Device",
    "LogCapture",
    "Model",
    "ModelParams",
    "PerfCounters",
    "SamplerChain",
    "available_mib",
    "capture_log",
    "devices",
    "keep_quiet",
    "recent_warnings",
    "shared_libraries",
    "usable_cores",
]
