"""One loaded model and everything that can be asked of it, without LangChain.

>>> from helpers.engine import Engine, EngineOptions, Request
>>> with Engine(EngineOptions(model_path=str(default_model()))) as engine:
...     engine.generate(Request(prompt="Hello", max_tokens=8)).generated_tokens
8
"""

from helpers.engine.engine import Engine
from helpers.engine.options import Chunk, Completion, EngineOptions, Request
from helpers.engine.report import LoadReport

__all__ = ["Chunk", "Completion", "Engine", "EngineOptions", "LoadReport", "Request"]
