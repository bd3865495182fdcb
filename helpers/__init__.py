"""Run language models on your own machine: llama.cpp through LangChain, measured and safe.

>>> from helpers import LlamaCpp, default_model
>>> answer = LlamaCpp(model_path=default_model(), max_tokens=8).invoke("Hello")

The names below are loaded when first used (PEP 562), so that `import helpers` costs nothing and
`python -m helpers` works with the standard library alone, before anything is installed.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Type checkers do not see lazy names: these lines are for them alone.
    from helpers.bench import SweepResult as SweepResult
    from helpers.bench import find_best as find_best
    from helpers.bench import sweep as sweep
    from helpers.bench import what_helps as what_helps
    from helpers.convert import convert_ggml as convert_ggml
    from helpers.convert import perplexity as perplexity
    from helpers.convert import quantize as quantize
    from helpers.doctor import EnvironmentSummary as EnvironmentSummary
    from helpers.doctor import backend_report as backend_report
    from helpers.doctor import environment_summary as environment_summary
    from helpers.documents import CitedAnswer as CitedAnswer
    from helpers.documents import DocumentIndex as DocumentIndex
    from helpers.documents import TokenSplitter as TokenSplitter
    from helpers.documents import answer_with_sources as answer_with_sources
    from helpers.documents import measure_retrieval as measure_retrieval
    from helpers.documents import split_text as split_text
    from helpers.engine import LoadReport as LoadReport
    from helpers.errors import ContextOverflowError as ContextOverflowError
    from helpers.errors import DeviceError as DeviceError
    from helpers.errors import EngineCrashed as EngineCrashed
    from helpers.errors import GrammarError as GrammarError
    from helpers.errors import HelpersError as HelpersError
    from helpers.errors import InstallError as InstallError
    from helpers.errors import ModelFileError as ModelFileError
    from helpers.grammars import Grammar as Grammar
    from helpers.grammars import trace_choices as trace_choices
    from helpers.install import BACKENDS as BACKENDS
    from helpers.install import detect_backend as detect_backend
    from helpers.install import install_command as install_command
    from helpers.lessons import checkpoint as checkpoint
    from helpers.lessons import recorded_answers as recorded_answers
    from helpers.llm import ChatLlamaCpp as ChatLlamaCpp
    from helpers.llm import LlamaCpp as LlamaCpp
    from helpers.llm import LlamaCppEmbeddings as LlamaCppEmbeddings
    from helpers.llm import LlamaCppReranker as LlamaCppReranker
    from helpers.memory import MemoryPlan as MemoryPlan
    from helpers.memory import network_cost as network_cost
    from helpers.memory import predict_memory as predict_memory
    from helpers.memory import suggest_gpu_layers as suggest_gpu_layers
    from helpers.memory import suggest_parallel as suggest_parallel
    from helpers.models import PLAIN_TEMPLATE as PLAIN_TEMPLATE
    from helpers.models import ModelInfo as ModelInfo
    from helpers.models import check_model_file as check_model_file
    from helpers.models import default_model as default_model
    from helpers.models import find_model as find_model
    from helpers.models import format_prompt as format_prompt
    from helpers.models import inspect_model as inspect_model
    from helpers.models import local_models as local_models
    from helpers.models import recommend as recommend
    from helpers.native import Device as Device
    from helpers.native import capture_log as capture_log
    from helpers.native import devices as devices
    from helpers.native import practice_accelerator as practice_accelerator
    from helpers.native import remote_device as remote_device
    from helpers.plots import plot_bars as plot_bars
    from helpers.plots import plot_choices as plot_choices
    from helpers.plots import plot_compare as plot_compare
    from helpers.plots import plot_levers as plot_levers
    from helpers.plots import plot_lines as plot_lines
    from helpers.plots import plot_memory as plot_memory
    from helpers.plots import plot_overview as plot_overview
    from helpers.plots import plot_passages as plot_passages
    from helpers.plots import plot_rules as plot_rules
    from helpers.plots import plot_serving as plot_serving
    from helpers.plots import plot_split as plot_split
    from helpers.plots import plot_streams as plot_streams
    from helpers.plots import plot_sweep as plot_sweep
    from helpers.plots import plot_timings as plot_timings
    from helpers.plots import plot_tokens as plot_tokens
    from helpers.recorder import TimingsRecorder as TimingsRecorder
    from helpers.timings import Timings as Timings
    from helpers.widgets import ChatBox as ChatBox
    from helpers.widgets import ClassProgress as ClassProgress
    from helpers.widgets import DocumentChat as DocumentChat
    from helpers.widgets import GpuTuner as GpuTuner
    from helpers.widgets import GrammarPlayground as GrammarPlayground
    from helpers.widgets import ModelChooser as ModelChooser

    __version__: str

_NAMES = {
    "bench": "SweepResult find_best sweep what_helps",
    "convert": "convert_ggml perplexity quantize",
    "doctor": "EnvironmentSummary backend_report environment_summary",
    "documents": "CitedAnswer DocumentIndex TokenSplitter answer_with_sources measure_retrieval "
    "split_text",
    "engine": "LoadReport",
    "errors": "ContextOverflowError DeviceError EngineCrashed GrammarError HelpersError "
    "InstallError ModelFileError",
    "grammars": "Grammar trace_choices",
    "install": "BACKENDS detect_backend install_command",
    "lessons": "checkpoint recorded_answers",
    "llm": "ChatLlamaCpp LlamaCpp LlamaCppEmbeddings LlamaCppReranker",
    "memory": "MemoryPlan network_cost predict_memory suggest_gpu_layers suggest_parallel",
    "models": "PLAIN_TEMPLATE ModelInfo check_model_file default_model find_model format_prompt "
    "inspect_model local_models recommend",
    "native": "Device capture_log devices practice_accelerator remote_device",
    "plots": "plot_bars plot_choices plot_compare plot_levers plot_lines plot_memory plot_overview "
    "plot_passages plot_rules plot_serving plot_split plot_streams plot_sweep plot_timings "
    "plot_tokens",
    "recorder": "TimingsRecorder",
    "timings": "Timings",
    "widgets": "ChatBox ClassProgress DocumentChat GpuTuner GrammarPlayground ModelChooser",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """The installed version; pyproject.toml is the one place that says it."""
    from importlib import metadata

    try:
        return metadata.version("llama-notebooks")
    except metadata.PackageNotFoundError:  # a clone whose environment is not made yet
        return "0+not.installed"


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
