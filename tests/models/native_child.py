"""Loads the models named on its input with llama.cpp and says how each went.

Run in a process of its own by the tests: it may die, and then it is started again.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp

# Words, and every character that has one byte or two.
TEXT = b"Hello, world!\n<|end|>" + "".join(map(chr, range(2048))).encode() + "한🦙".encode()


@llama_cpp.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    return


def use(path: str) -> str:
    """Load, make a context, read a text, decode it and write a token, as a user would."""
    params = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        return "refused"
    try:
        vocab = llama_cpp.llama_model_get_vocab(model)
        context_params = llama_cpp.llama_context_default_params()
        context_params.n_ctx = 64
        context_params.n_batch = context_params.n_ubatch = 32
        context_params.n_threads = context_params.n_threads_batch = 1
        context_params.n_outputs_max = 1
        context = llama_cpp.llama_init_from_model(model, context_params)
        if not context:
            return "no context"
        try:
            tokens = (llama_cpp.llama_token * len(TEXT))()
            n = llama_cpp.llama_tokenize(vocab, TEXT, len(TEXT), tokens, len(TEXT), True, True)
            if n <= 0:
                return "no tokens"
            for count in (min(n, 24), 1):
                batch = llama_cpp.llama_batch_get_one(tokens, count)
                if llama_cpp.llama_decode(context, batch) != 0:
                    return "no decode"
                if not llama_cpp.llama_get_logits_ith(context, -1):
                    return "no logits"
            buffer = ctypes.create_string_buffer(256)
            llama_cpp.llama_token_to_piece(vocab, tokens[0], buffer, 256, 0, True)
            return "ok"
        finally:
            llama_cpp.llama_free(context)
    finally:
        llama_cpp.llama_model_free(model)


def main() -> None:
    try:
        import resource

        # An allocation that no such small model needs must fail, not fill the machine.
        limit = int(sys.argv[1]) if len(sys.argv) > 1 else 3 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:
        pass
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    for line in sys.stdin:
        print(use(line.rstrip("\n")), flush=True)


if __name__ == "__main__":
    main()
