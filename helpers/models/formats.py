"""What the GGUF format and llama.cpp fix as numbers: value types, tensor types, architectures.

The sources are the GGUF specification (`docs/gguf.md` of ggml) and the
llama.cpp that llama-cpp-python 0.3.36 carries: `ggml/include/ggml.h` (numbers of the tensor types),
`ggml/src/ggml-common.h` (bytes of a block), `include/llama.h` (file types) and
`src/llama-arch.cpp` (architectures). A test compares the sizes with the `gguf` library.

The lists of names are those of that version. A name that they lack is not wrong: `verdict.py` asks
the llama.cpp that is installed.
"""

from __future__ import annotations

import re
from typing import NamedTuple


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def _rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.split(",")]


def _numbered(text: str) -> dict[int, str]:
    return {int(number): name for number, name in _rows(text)}


def part_names(name: str) -> list[str]:
    """The names of all parts of a split model, given one of them; of any other file, its own."""
    match = re.fullmatch(r"(.+-)\d{5}-of-(\d{5})(\.gguf)", name, re.IGNORECASE)
    if match is None:
        return [name]
    count = int(match[2])
    return [f"{match[1]}{n:05d}-of-{count:05d}{match[3]}" for n in range(1, count + 1)] or [name]


GGUF_MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

# How a value of each type is unpacked; strings and arrays have their own readers.
VALUE_FORMATS = {
    0: ("u8", "B", 1),
    1: ("i8", "b", 1),
    2: ("u16", "H", 2),
    3: ("i16", "h", 2),
    4: ("u32", "I", 4),
    5: ("i32", "i", 4),
    6: ("f32", "f", 4),
    7: ("bool", "?", 1),
    10: ("u64", "Q", 8),
    11: ("i64", "q", 8),
    12: ("f64", "d", 8),
}
UINT32, STRING, ARRAY = 4, 8, 9
VALUE_NAMES = {code: entry[0] for code, entry in VALUE_FORMATS.items()} | {8: "str", 9: "array"}


class TensorType(NamedTuple):
    """One ggml tensor type: `block` values are stored together in `size` bytes."""

    name: str
    block: int
    size: int


TENSOR_TYPES = {
    int(number): TensorType(name, int(block), int(size))
    for number, name, block, size in _rows(
        """
        0 F32 1 4, 1 F16 1 2, 2 Q4_0 32 18, 3 Q4_1 32 20, 6 Q5_0 32 22, 7 Q5_1 32 24, 8 Q8_0 32 34,
        9 Q8_1 32 36, 10 Q2_K 256 84, 11 Q3_K 256 110, 12 Q4_K 256 144, 13 Q5_K 256 176,
        14 Q6_K 256 210, 15 Q8_K 256 292, 16 IQ2_XXS 256 66, 17 IQ2_XS 256 74, 18 IQ3_XXS 256 98,
        19 IQ1_S 256 50, 20 IQ4_NL 32 18, 21 IQ3_S 256 110, 22 IQ2_S 256 82, 23 IQ4_XS 256 136,
        24 I8 1 1, 25 I16 1 2, 26 I32 1 4, 27 I64 1 8, 28 F64 1 8, 29 IQ1_M 256 56, 30 BF16 1 2,
        34 TQ1_0 256 54, 35 TQ2_0 256 66, 39 MXFP4 32 17, 40 NVFP4 64 36, 41 Q1_0 128 18,
        42 Q2_0 64 18
        """
    )
}

# Types that llama.cpp once wrote into files and has taken out again, with what to do.
REMOVED_TENSOR_TYPES = _numbered(
    """
    4 Q4_2, 5 Q4_3, 31 Q4_0_4_4, 32 Q4_0_4_8, 33 Q4_0_8_8, 36 IQ4_NL_4_4, 37 IQ4_NL_4_8,
    38 IQ4_NL_8_8
    """
)

# `general.file_type`: the recipe that the quantizer followed (enum llama_ftype).
FILE_TYPES = _numbered(
    """
    0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 7 Q8_0, 8 Q5_0, 9 Q5_1, 10 Q2_K, 11 Q3_K_S, 12 Q3_K_M,
    13 Q3_K_L, 14 Q4_K_S, 15 Q4_K_M, 16 Q5_K_S, 17 Q5_K_M, 18 Q6_K, 19 IQ2_XXS, 20 IQ2_XS,
    21 Q2_K_S, 22 IQ3_XS, 23 IQ3_XXS, 24 IQ1_S, 25 IQ4_NL, 26 IQ3_S, 27 IQ3_M, 28 IQ2_S,
    29 IQ2_M, 30 IQ4_XS, 31 IQ1_M, 32 BF16, 36 TQ1_0, 37 TQ2_0, 38 MXFP4_MOE, 39 NVFP4, 40 Q1_0,
    41 Q2_0
    """
)

# LLM_ARCH_NAMES of src/llama-arch.cpp, less `gptj`, which has a name there but no graph.
ARCHITECTURES = words(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert
    bitnet bloom chameleon chatglm clip codeshell cogvlm cohere2 cohere2moe command-r dbrx
    deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash dots1 dots3note dream
    eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
    gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe
    glm5-next gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe
    graniteswitch grok grovemoe hrm_text hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4
    internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-k3 kimi-linear laguna lfm2
    lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum
    mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert
    mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert
    nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe
    plamo plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe
    qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2
    rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5
    t5encoder talkie wavtokenizer-dec xverse
    """
)

# Magic numbers of the formats before GGUF, as the first four bytes of the file (each was written
# as a little-endian number, so the letters appear reversed too).
OLD_MAGICS = {
    b"lmgg": "GGML (unversioned, before March 2023)",
    b"ggml": "GGML (unversioned, before March 2023)",
    b"fmgg": "GGMF v1 (March 2023)",
    b"ggmf": "GGMF v1 (March 2023)",
    b"tjgg": "GGJT (April to August 2023)",
    b"ggjt": "GGJT (April to August 2023)",
}
OLD_ADAPTER_MAGICS = {b"algg": "GGLA (a LoRA adapter)", b"ggla": "GGLA (a LoRA adapter)"}

# Architectures that may rotate a part of each head; with none rotated, ggml never comes back. What
# the others rotate, llama.cpp checks itself.
PARTLY_ROTATED = words(
    """
    afmoe bailingmoe bailingmoe2 bitnet chatglm cohere2 command-r deepseek2 gemma gemma2 gemma3
    gemma3n gemma4 glm4 glm4moe gpt-oss gptneox granitemoe hunyuan-dense lfm2 lfm2moe llama-embed
    mimo2 minicpm minicpm3 mistral4 openelm phi2 phi3 phimoe plamo2 plamo3 qwen qwen35 qwen35moe
    qwen3next stablelm step35
    """
)

# Architectures that assert that they have experts, and those that rotate by several axes.
MIXTURES = words("bailingmoe2 glm4moe grovemoe lfm2moe llada-moe smallthinker")
SECTIONED = words("paddleocr qwen2vl qwen35 qwen35moe qwen3vl qwen3vlmoe qwen4exp")

# `{architecture}.rope.scaling.type` (LLAMA_ROPE_SCALING_TYPES); anything else aborts.
ROPE_SCALING_TYPES = ("none", "linear", "yarn", "longrope")

# Limits of src/llama-hparams.h.
MAX_LAYERS = 512
MAX_EXPERTS = 1024

# Pre-tokenizers of byte-pair vocabularies (src/llama-vocab.cpp); the first set begins every text
# with the BOS token unless the file says otherwise.
PRE_TOKENIZERS_WITH_BOS = words(
    """
    chameleon falcon-h1 falcon3 jina-v5-nano lfm2 llama-bpe llama-v3 llama3 midm-2.0 pixtral
    tekken
    """
)
PRE_TOKENIZERS = PRE_TOKENIZERS_WITH_BOS | words(
    """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chatglm-bpe codeshell cohere2moe command-r
    dbrx deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe
    exaone4 f2llmv2 falcon gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish
    granite-docling granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan
    hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code jina-v2-de
    jina-v2-es joyai-llm kanana2 kimi-k2 kormo laguna llada-moe llama4 megrez mellum mellum2
    minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 poro-chat qwen2 qwen35 refact
    roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2
    starcoder superbpe talkie tiny_aya trillion ufakzeka viking whitespace youtu
    """
)
