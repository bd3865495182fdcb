"""How many answers side by side fit a card, by model: the table of workshop/jupyterhub/README.md.

    python -m tests.workshop.record_class_sizes

Only the embedded model is here as a file. Of the others, a header is written with the shapes that
the catalogue knows, and a hole where the weights would be: all that `predict_memory` reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers import Device, default_model, suggest_parallel
from helpers.models.catalogue import CATALOGUE
from tests.models.gguf_builders import sparse_model

README = Path(__file__).parents[2] / "workshop" / "jupyterhub" / "README.md"
CARDS = (8, 12, 16, 24, 48, 80)
MODELS = ("smollm3-3b", "ministral-3-8b", "granite-4.1-8b", "llama-3.3-70b")
N_CTX = 4096
_Q4_K, _Q6_K = 12, 14


def table(models: Sequence[str] = ("smollm2-135m", *MODELS)) -> str:
    """The table, as Markdown, or some of its lines."""
    lines = ["| model | " + " | ".join(f"{gib} GiB" for gib in CARDS) + " |"]
    lines.append("|---|" + "---|" * len(CARDS))
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            embedded = name == "smollm2-135m"
            file = default_model() if embedded else header(Path(folder) / f"{name}.gguf", name)
            fits = [suggest_parallel(file, devices=[card(gib)], n_ctx=N_CTX) for gib in CARDS]
            lines.append(f"| {name} | " + " | ".join(str(n or "none") for n in fits) + " |")
    return "\n".join(lines) + "\n"


def card(gib: int) -> Device:
    """A graphics card that nobody else uses."""
    return Device("CUDA0", f"{gib} GiB", "gpu", "CUDA", total_mib=gib * 1024, free_mib=gib * 1024)


def header(path: Path, name: str) -> Path:
    """A file with the shapes of a model of the catalogue, in 4 bits."""
    shape = CATALOGUE[name].hparams
    return sparse_model(
        path,
        "llama",
        layers=shape.n_layers,
        width=shape.n_heads * shape.head_length,
        heads=shape.n_heads,
        kv_heads=shape.n_kv_heads,
        feed_forward=shape.n_ff,
        tokens=shape.n_vocab,
        type_id=_Q4_K,
        output_type_id=_Q6_K,
        file_type=15,
    )


def main() -> None:
    """Write the table between the marks of the page."""
    page = README.read_text(encoding="utf-8")
    before, _, rest = page.partition("<!-- sizes -->\n")
    _, _, after = rest.partition("<!-- /sizes -->\n")
    README.write_text(
        f"{before}<!-- sizes -->\n{table()}<!-- /sizes -->\n{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
