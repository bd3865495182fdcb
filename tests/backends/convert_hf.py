"""A Hugging Face checkpoint to GGUF, by hand: needs PyTorch, which the suite does not install.

    python tests/backends/convert_hf.py PYTHON [OUTPUT.json]

PYTHON is the interpreter of an environment with torch (a CPU build will do), transformers,
safetensors, sentencepiece and protobuf. There a tiny llama with random weights and a tokenizer of
its own is saved, and the converter of the installed llama-cpp-python's source makes it GGUF. Here
the result is checked, loaded and generated with. The record goes to OUTPUT.json if given.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import LlamaCpp, inspect_model
from helpers.install.build import source_folder
from helpers.install.paths import cache_dir

MAKE = """
import json, sys
from importlib.metadata import version
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.train_from_iterator(
    ["the sea is wide and the river is long"] * 9,
    trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ),
)
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
fast.save_pretrained(folder)
torch.manual_seed(5)
config = LlamaConfig(
    vocab_size=len(fast), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    bos_token_id=0, eos_token_id=1,
)
LlamaForCausalLM(config).save_pretrained(folder)
print(json.dumps({name: version(name) for name in ("torch", "transformers", "safetensors")}))
"""
# The converter knows tokenizers by the hash of a test text; a tokenizer made here is none of them.
CONVERT = """
import sys, runpy
import conversion.base

conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> None:
    """Make, convert, load, generate, record."""
    python = sys.argv[1]
    version = importlib.metadata.version("llama-cpp-python")
    script = source_folder(version, cache_dir()) / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    modules = os.pathsep.join([str(script.parent), str(script.parent / "gguf-py")])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        done = subprocess.run(
            [python, "-c", MAKE, str(folder)], env=env, check=True, capture_output=True, text=True
        )
        versions = json.loads(done.stdout.splitlines()[-1])
        for kind in ("f32", "f16", "q8_0"):
            target = Path(name) / f"{kind}.gguf"
            command = [python, "-c", CONVERT, str(script), str(folder)]
            command += ["--outfile", str(target), "--outtype", kind]
            subprocess.run(command, env={**env, "PYTHONPATH": modules}, check=True)
            info = inspect_model(target)
            assert (info.n_layers, info.n_embd, info.n_kv_heads) == (2, 64, (2, 2))
            with LlamaCpp(model_path=target, n_gpu_layers=0, temperature=0, max_tokens=8) as llm:
                llm.invoke("the sea")
                tokens = llm.last_timings.generated_tokens
            assert tokens
            rows.append({"type": info.quantization, "bytes": info.file_size, "generated": tokens})
            print(rows[-1])
    record = {
        "what": "tiny random llama, safetensors and tokenizer, by convert_hf_to_gguf.py",
        "done_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "llama_cpp_python": version,
        "versions": versions,
        "results": rows,
    }
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
