"""One loaded model and everything that can be asked of it, without LangChain.

>>> from helpers.engine import Engine, LoadOptions, Request
>>> with Engine(LoadOptions(model_path=str(default_model()))) as engine:
...     engine.generate(Request(prompt="Hello", max_tokens=8)).generated_tokens
8
"""

from helpers.engine.engine import Engine
from helpers.engine.options import Chunk, Completion, ReasoningBudget, Request
from helpers.engine.report import LoadReport
from helpers.load_options import LoadOptions

__all__ = [
    "Chunk",
    "Completion",
    "Engine",
    "LoadOptions",
    "LoadReport",
    "ReasoningBudget",
    "Request",
]
