"""Run language models on your own machine: llama.cpp through LangChain, measured and safe.

>>> from helpers import LlamaCpp, default_model
>>> LlamaCpp(model_path=default_model()).invoke("Hello")  # doctest: +SKIP

The names below are loaded when first used (PEP 562), so that `import helpers` costs nothing and
`python -m helpers` works with the standard library alone, before anything is installed.
"""

from importlib import import_module as _import_module

_MODULE_OF = {
    "ContextOverflowError": "errors",
    "DeviceError": "errors",
    "EngineCrashed": "errors",
    "GrammarError": "errors",
    "HelpersError": "errors",
    "InstallError": "errors",
    "ModelFileError": "errors",
}

__all__ = sorted(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
