"""Record how well an embedding model finds what the lessons say.

    python -m tests.documents.record_retrieval MODEL [--query-prefix TEXT] [--document-prefix TEXT]
        [--reranker MODEL] [--index FOLDER]

Indexes the lessons that `notebooks/data/questions.json` asks about with MODEL (a file, or a name
that `find_model` knows), measures by vectors, words and both, and writes a dated row for each into
`notebooks/data/retrieval.json`, in place of the same model's older ones. Nothing else writes it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from helpers import HelpersError, LlamaCppEmbeddings, LlamaCppReranker, find_model, inspect_model
from helpers.documents.index import DocumentIndex
from helpers.documents.measure import Question, measure_retrieval, read_questions
from helpers.documents.sources import read_file

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
QUESTIONS = NOTEBOOKS / "data" / "questions.json"
RECORD = NOTEBOOKS / "data" / "retrieval.json"


def lessons(questions: Iterable[Question]) -> list[Document]:
    """The cells of the notebooks that some questions are about."""
    sources = sorted({source for one in questions for source, _ in one.places})
    return [
        Document(cell.page_content, metadata={**cell.metadata, "source": source})
        for source in sources
        for cell in read_file(NOTEBOOKS / source)
    ]


def measure(
    embeddings: LlamaCppEmbeddings,
    reranker: LlamaCppReranker | None = None,
    folder: str | None = None,
) -> list[dict[str, Any]]:
    """The rows of one model; a folder keeps the vectors for the next time."""
    questions = read_questions(QUESTIONS)
    info = inspect_model(embeddings.model_path)
    with DocumentIndex(embeddings, folder) as index:
        index.add(lessons(questions))
        table = measure_retrieval(index, questions, reranker=reranker)
        about = {
            "date": datetime.date.today().isoformat(),
            "model": info.name,
            "file": info.path.name,
            "mib": round(info.file_size / 2**20, 1),
            "quantization": info.quantization,
            "dimension": int(index.vectors().shape[1]),
            "query_prefix": embeddings.prefixes[0],
        }
        if reranker is not None:
            about["reranker"] = Path(reranker.model_path).name
        return [
            {
                **about,
                "way": way,
                **{name: round(float(row[name]), 3) for name in ("recall@1", "recall@5", "MRR")},
                "passages": len(index),
                "questions": len(questions),
            }
            for way, row in table.iterrows()
        ]


def write(rows: list[dict[str, Any]], path: Path = RECORD) -> None:
    """Put rows into the record; those of the same file and way go."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    key = ("file", "query_prefix", "reranker", "way")
    new = {tuple(row.get(name) for name in key) for row in rows}
    kept = [row for row in kept if tuple(row.get(name) for name in key) not in new]
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in [*kept, *rows])
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a GGUF file, or a name that find_model knows")
    parser.add_argument("--query-prefix", help="text before a question; default: as is known")
    parser.add_argument("--document-prefix", help="text before a passage; default: as is known")
    parser.add_argument("--reranker", help="a reranker's GGUF file: a further row for each way")
    parser.add_argument("--index", help="a folder to keep the index in: a second run goes on")
    options = parser.parse_args()
    try:
        embeddings = LlamaCppEmbeddings(
            model_path=find_model(options.model),
            query_prefix=options.query_prefix,
            document_prefix=options.document_prefix,
            show_progress=False,  # the index shows its own
        )
        reranker = None
        if options.reranker:
            reranker = LlamaCppReranker(model_path=find_model(options.reranker))
        rows = measure(embeddings, reranker, options.index)
    except HelpersError as error:
        parser.error(str(error))
    write(rows)
    for row in rows:
        print(f"{row['way']:18} {row['recall@1']:.3f} {row['recall@5']:.3f} {row['MRR']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
