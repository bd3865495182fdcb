"""llama.cpp's own grammar sampler behind Python types: the ctypes calls of the fallback.

The sampler has no way to refuse: a faulty grammar gives a null pointer, a token that does not fit
ends the process. So only checked grammars come here, and `accept` asks before it accepts.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GrammarError


class NativeSampler:
    """One grammar sampler and the arrays it works on.

    Args:
        vocab: Pointer to the vocabulary (`llama_vocab_p`).
        gbnf: A grammar that `helpers.grammars.gbnf` has read and checked.

    Raises:
        GrammarError: If llama.cpp refuses the grammar all the same.
    """

    def __init__(self, vocab: Any, gbnf: str) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._pointer = llama_cpp.llama_sampler_init_grammar(vocab, gbnf.encode(), b"root")
        if not self._pointer:
            raise GrammarError("llama.cpp's own parser refuses this grammar:\n" + gbnf[:2000])
        self._one = (llama_cpp.llama_token_data * 1)()
        self._one_array = llama_cpp.llama_token_data_array(
            data=self._one, size=1, selected=-1, sorted=False
        )

    def allows(self, token: int) -> bool:
        """Whether the sampler leaves this one candidate its logit."""
        self._one[0] = self._lib.llama_token_data(token, 0.0, 0.0)
        self._one_array.size = 1
        self._lib.llama_sampler_apply(self._pointer, ctypes.byref(self._one_array))
        return math.isfinite(self._one[0].logit)

    def accept(self, token: int) -> None:
        """Advance; the caller has asked `allows` first."""
        self._lib.llama_sampler_accept(self._pointer, token)

    def restart(self) -> None:
        """Go back to the beginning of a text."""
        self._lib.llama_sampler_reset(self._pointer)

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Which of the `size` tokens may come next; the slow part, some milliseconds."""
        data = np.zeros(size, dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])
        data["id"] = np.arange(size, dtype=np.int32)
        array = self._lib.llama_token_data_array(
            data=data.ctypes.data_as(ctypes.POINTER(self._lib.llama_token_data)),
            size=size,
            selected=-1,
            sorted=False,
        )
        self._lib.llama_sampler_apply(self._pointer, ctypes.byref(array))
        result = np.empty(size, dtype=np.bool_)
        result[data["id"]] = np.isfinite(data["logit"])
        return result

    def close(self) -> None:
        """Free the sampler; twice does no harm."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            self._lib.llama_sampler_free(pointer)

    def __del__(self) -> None:
        # The library may be gone already when the interpreter ends.
        if getattr(self, "_pointer", None) and getattr(self, "_lib", None):
            self.close()


def control_tokens(vocab: Any, size: int) -> NDArray[np.bool_]:
    """Which tokens steer the model instead of standing for text."""
    import llama_cpp

    return np.array([llama_cpp.llama_vocab_is_control(vocab, t) for t in range(size)], dtype=bool)
