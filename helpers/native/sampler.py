"""llama.cpp's sampler chain for one sequence: from logits to the next token."""

from __future__ import annotations

from helpers.native.context import Context
from helpers.native.library import fast, llama


class SamplerChain:
    """top_k, typical, top_p, min_p, temperature and a seeded draw, in llama.cpp's own order.

    Penalties are not in it: they touch a few dozen logits, which the engine changes in place,
    while llama.cpp's own penalty sampler looks at every token of the vocabulary.

    Args:
        temperature: Above 0.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the likeliest tokens that make up this probability; 1 keeps all.
        min_p: Drop tokens below this share of the likeliest one's probability; 0 drops none.
        typical_p: Locally typical sampling; 1 is off.
        seed: Seed of the draw, 0 to 2**32 - 1.
    """

    def __init__(
        self,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        typical_p: float,
        seed: int,
    ) -> None:
        module = llama()
        params = module.llama_sampler_chain_default_params()
        params.no_perf = True
        self.pointer = module.llama_sampler_chain_init(params)
        add = module.llama_sampler_chain_add
        if top_k > 0:
            add(self.pointer, module.llama_sampler_init_top_k(top_k))
        if typical_p < 1.0:
            add(self.pointer, module.llama_sampler_init_typical(typical_p, 1))
        if top_p < 1.0:
            add(self.pointer, module.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0.0:
            add(self.pointer, module.llama_sampler_init_min_p(min_p, 1))
        add(self.pointer, module.llama_sampler_init_temp(temperature))
        add(self.pointer, module.llama_sampler_init_dist(seed))
        self._sample = fast().llama_sampler_sample

    def sample(self, context: Context, row: int) -> int:
        """Draw the next token from the logits in a row of the last decode."""
        return int(self._sample(self.pointer, context.pointer, row))

    def close(self) -> None:
        """Free the chain."""
        if self.pointer:
            llama().llama_sampler_free(self.pointer)
            self.pointer = None
