"""llama.cpp as a LangChain language model: `LlamaCpp`."""

from helpers.llm.completion import LlamaCpp

__all__ = ["LlamaCpp"]
