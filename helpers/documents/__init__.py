"""One's own documents: split by tokens, kept in an index, searched, measured, quoted.

>>> from helpers import DocumentIndex, LlamaCppEmbeddings, default_model
>>> vectors = LlamaCppEmbeddings(model_path=default_model(), show_progress=False)
>>> with DocumentIndex(vectors) as index:  # doctest: +SKIP
...     changes = index.sync("notes")
...     found = index.search("How long is the river?", k=3)

`split_text` cuts texts into passages, `DocumentIndex` keeps and finds them, `measure_retrieval`
says how well, `answer_with_sources` has a model answer with quotes from them.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from helpers.errors import InstallError as _InstallError

if TYPE_CHECKING:
    from helpers.documents.answers import answer_with_sources
    from helpers.documents.citations import CitedAnswer
    from helpers.documents.index import DocumentIndex
    from helpers.documents.measure import measure_retrieval, read_questions
    from helpers.documents.split import TokenSplitter, split_text

_MODULE_OF = {
    "CitedAnswer": "citations",
    "DocumentIndex": "index",
    "TokenSplitter": "split",
    "answer_with_sources": "answers",
    "measure_retrieval": "measure",
    "read_questions": "measure",
    "split_text": "split",
}

__all__ = [
    "CitedAnswer",
    "DocumentIndex",
    "TokenSplitter",
    "answer_with_sources",
    "measure_retrieval",
    "read_questions",
    "split_text",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("langchain_text_splitters", "langchain_qdrant"):
        if _find_spec(package) is None:
            raise _InstallError(
                f"Documents need the package {package.replace('_', '-')}. "
                'Run: python -m pip install "llama-notebooks[documents]", or in a clone: '
                'python -m pip install -e ".[documents]"'
            )
    value = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
