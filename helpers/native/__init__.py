"""The only room with ctypes: what llama.cpp offers below LangChain, made safe to call."""

from helpers.native.context import MOST_GUESSES, RANK, Context, DecodeAborted, Vectors
from helpers.native.load_log import (
    read_buffers,
    read_caches,
    read_flash_attention,
    read_layers,
    read_offloaded,
)
from helpers.native.log import LogCapture, capture_log, keep_quiet, recent_warnings
from helpers.native.model import Model
from helpers.native.practice import (
    PracticeAccelerator,
    ask,
    is_practice,
    practice_accelerator,
    practice_split,
    reach,
    renamed,
    servers_of,
)
from helpers.native.registry import (
    Device,
    available_mib,
    cpu_features,
    devices,
    display_names,
    registered_backends,
    shared_libraries,
    usable_cores,
)
from helpers.native.remote import PROTOCOLS, remote_device
from helpers.native.sampler import SamplerChain

__all__ = [
    "MOST_GUESSES",
    "PROTOCOLS",
    "RANK",
    "Context",
    "DecodeAborted",
    "Device",
    "LogCapture",
    "Model",
    "PracticeAccelerator",
    "SamplerChain",
    "Vectors",
    "ask",
    "available_mib",
    "capture_log",
    "cpu_features",
    "devices",
    "display_names",
    "is_practice",
    "keep_quiet",
    "practice_accelerator",
    "practice_split",
    "reach",
    "read_buffers",
    "read_caches",
    "read_flash_attention",
    "read_layers",
    "read_offloaded",
    "recent_warnings",
    "registered_backends",
    "remote_device",
    "renamed",
    "servers_of",
    "shared_libraries",
    "usable_cores",
]
