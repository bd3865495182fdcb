"""llama.cpp as LangChain models: `LlamaCpp` and `ChatLlamaCpp`."""

from helpers.llm.chat import ChatLlamaCpp
from helpers.llm.completion import LlamaCpp

__all__ = ["ChatLlamaCpp", "LlamaCpp"]
