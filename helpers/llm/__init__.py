"""llama.cpp in LangChain: completion, chat, embeddings, reranker."""

from helpers.llm.chat import ChatLlamaCpp
from helpers.llm.completion import LlamaCpp
from helpers.llm.embeddings import LlamaCppEmbeddings
from helpers.llm.reranker import LlamaCppReranker

__all__ = ["ChatLlamaCpp", "LlamaCpp", "LlamaCppEmbeddings", "LlamaCppReranker"]
