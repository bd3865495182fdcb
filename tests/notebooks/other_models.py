"""Models that are not the suite's own, for running the notebooks with.

    python tests/notebooks/other_models.py FOLDER

Two have random weights, so that no answer can be relied on: one with the tokens of SentencePiece
and a strict template, one with a sliding window and a template that takes no system message and
knows no tools. The third is the embedded model as a base model: its weights, and no template.
"""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.install.configure import pinned_source
from helpers.models.default import embedded_model
from tests.models.gguf_builders import Draft, tiny_llama

NAMES = ("pieces", "windowed", "base")


def write_model(name: str, folder: Path) -> Path:
    """Write one of `NAMES` into a folder.

    Raises:
        FileNotFoundError: The source with the vocabularies and templates is not on this machine.
    """
    path = folder / f"tiny-{name}.gguf"
    if name == "base":
        whole = embedded_model().read_bytes()
        draft = Draft(whole)
        draft.remove("tokenizer.chat_template")
        head = draft.header()
        path.write_bytes(head + bytes(-len(head) % draft.alignment) + whole[draft.data_offset :])
        return path
    source = pinned_source()
    if source is None:
        raise FileNotFoundError("the pinned source of llama-cpp-python is not on this machine")
    models = source / "vendor" / "llama.cpp" / "models"

    def template(file: str) -> str:
        return (models / "templates" / f"{file}.jinja").read_text("utf-8")

    if name == "pieces":
        return tiny_llama(
            path,
            context=8192,
            vocabulary=models / "ggml-vocab-llama-spm.gguf",
            chat_template=template("mistralai-Mistral-Nemo-Instruct-2407"),
        )
    width = 64
    norms = {"post_attention_norm": width, "post_ffw_norm": width}
    return tiny_llama(
        path,
        architecture="gemma3",
        layers=6,
        width=width,
        context=8192,
        norms={**norms, "attn_q_norm": width // 4, "attn_k_norm": width // 4},
        vocabulary=models / "ggml-vocab-gpt-2.gguf",
        chat_template=template("google-gemma-2-2b-it"),
        edit=lambda writer: writer.add_sliding_window(512),
    )


if __name__ == "__main__":
    for each in NAMES:
        print(write_model(each, Path(sys.argv[1])))
