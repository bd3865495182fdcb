"""What makes numbers of texts: loading for it, batches, progress, the time of a call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import PrivateAttr

from helpers.engine import Engine
from helpers.engine.embedder import BATCH_TOKENS, DEVICE_BATCH_TOKENS
from helpers.errors import ContextOverflowError
from helpers.llm.loading import LoadingFields
from helpers.llm.progress import progress
from helpers.llm.results import LastTimings
from helpers.load_options import POOLINGS, LoadOptions
from helpers.models.overrides import check_overrides
from helpers.native import Vectors
from helpers.parameters import warn_dead
from helpers.prompt import Prompt
from helpers.timings import Timings

Pooling = Literal["none", "mean", "cls", "last", "rank"]

_LAST, _ADD_END = POOLINGS.index("last"), "tokenizer.ggml.add_eos_token"

_DEAD = {
    "seed": "nothing is drawn; drop it",
    "device": "use devices=[…], from helpers.devices()",
}
"""Fields of the archived class that mean nothing here, with what to use instead."""


class VectorFields(LoadingFields):
    """What embeddings and rerankers share.

    `n_ctx` is the longest text; None: 2048 tokens, or the model's own if smaller.
    """

    n_batch: int | None = None
    """Tokens that short texts fill a decode with; a longer text gets one of its own. None: 128 on
    the CPU, 512 on devices."""

    pooling: Pooling | None = None
    """How a text's tokens become one vector: "mean", "cls" (the first token), "last", "none" (a
    vector for each token: `embed_tokens`), "rank" (a score). None: as the file says, or "mean"."""

    truncate: bool = False
    """Cut a text that is longer than the context, instead of refusing it."""

    show_progress: bool | None = None
    """A progress bar over the texts of a call. None: if it takes over two seconds."""

    _timings: LastTimings = PrivateAttr(default_factory=LastTimings)
    _ending: int | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Check the values, then load the model."""
        super().model_post_init(context)
        options = self._engine.options
        if self.server is None:
            header = check_overrides(options.model_path, options.kv_overrides)[0]
        else:
            header = self._inspected().metadata
        # A model that was trained to sum a text up in its end token, in a file that forgets to put
        # it there, as the first ones of Qwen3-Embedding (ggml-org/llama.cpp#14234).
        if header.hyper("pooling_type") == _LAST and _ADD_END not in header:
            self._ending = header.get("tokenizer.ggml.eos_token_id")

    def _connected(self, server: str, *, embeddings: bool = True) -> Engine:
        engine = super()._connected(server, embeddings=embeddings)
        pooling = engine.load_report.pooling
        if self.pooling not in (None, pooling):
            engine.close()
            raise ValueError(
                f"pooling={self.pooling!r} is not the server's, which is {pooling!r}. Leave it "
                "out, or load the model here."
            )
        return engine

    @classmethod
    def _known(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(values)
        for name, successor in _DEAD.items():
            if name in given:
                del given[name]
                warn_dead(cls.__name__, name, successor)
        return super()._known(given)

    def _options(self) -> LoadOptions:
        options = super()._options()
        pooling = -1 if self.pooling is None else POOLINGS.index(self.pooling)
        if self.pooling is None and not _pools(options):
            pooling = POOLINGS.index("mean")
        return replace(options, embeddings=True, pooling_type=pooling)

    @property
    def last_timings(self) -> Timings | None:
        """Timings of the last call made by this thread or task; None before the first."""
        return self._timings.get()

    def _computed(self, texts: Sequence[list[int]], what: str, started: float) -> list[Vectors]:
        """What the engine makes of texts, given as tokens, in their order; the call is timed."""
        found: list[Vectors | None] = [None] * len(texts)
        begun = time.perf_counter()
        usual = DEVICE_BATCH_TOKENS if self.load_report.n_gpu_layers else BATCH_TOKENS
        with progress(len(texts), what, self.show_progress) as done:
            for number, vector in self._engine.embed(texts, self.n_batch or usual):
                found[number] = vector
                done(1)
        ended = time.perf_counter()
        self._timings.set(
            Timings(
                load_ms=self.load_report.load_ms,
                prompt_ms=(ended - begun) * 1000,
                prompt_tokens=sum(map(len, texts)),
                total_ms=(ended - started) * 1000,
            )
        )
        return [vector for vector in found if vector is not None]

    def _tokens(self, text: str, prefix: str = "", number: int = 0) -> list[int]:
        """The tokens of a text; what it says never becomes a control token."""
        return self._tokens_of_many([text], prefix, number)[0]

    def _tokens_of_many(
        self, texts: Sequence[str], prefix: str = "", first: int = 0
    ) -> list[list[int]]:
        """The tokens of texts, the first of which has a number for messages."""
        for number, text in enumerate(texts, first):
            if not isinstance(text, str):
                raise TypeError(f"Text {number} is {text!r}, a {type(text).__name__}: give a str.")
        found = self._engine.tokenize_many([Prompt([(prefix + text, False)]) for text in texts])
        return [
            # Where nothing is put around a text, an empty one has no tokens, and no vector.
            self._fitting(self._ended(tokens) or self._supplied(" "), text, number)
            for number, (tokens, text) in enumerate(zip(found, texts, strict=True), first)
        ]

    def _supplied(self, text: str) -> list[int]:
        return self._ended(self._engine.tokenize(Prompt([(text, False)])))

    def _ended(self, tokens: list[int]) -> list[int]:
        if self._ending is not None and tokens[-1:] != [self._ending]:
            tokens.append(self._ending)
        return tokens

    def _fitting(self, tokens: list[int], text: str, number: int) -> list[int]:
        """Tokens that the context holds: cut, or refused."""
        n_ctx = self.load_report.n_ctx
        if len(tokens) <= n_ctx:
            return tokens
        if self.truncate:
            around = self._supplied("")
            last = tokens[-1:] if around and around[-1] == tokens[-1] else []
            return tokens[: n_ctx - len(last)] + last
        raise ContextOverflowError(
            len(tokens),
            n_ctx,
            f"Text {number} ({text[:40]!r}…) has {len(tokens):,} tokens, but the context holds "
            f"{n_ctx:,}, and a text is computed as a whole. Split it (get_num_tokens counts as the "
            "model does), set a larger n_ctx if the model was trained for it, or truncate=True.",
        )


def _pools(options: LoadOptions) -> bool:
    header = check_overrides(options.model_path, options.kv_overrides)[0]
    return bool(header.hyper("pooling_type"))
