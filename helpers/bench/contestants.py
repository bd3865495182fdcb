"""What is compared: each in a process of its own, loaded once, measured in turn.

Two users of llama.cpp in one process would slow each other down even when one is idle: together
they have more OpenMP threads than there are cores. Each has `generate(prompt, count)`, which
generates greedily and returns `(ms to the first token, tokens/s after it)` as its caller sees them.
"""

from __future__ import annotations

import time
from typing import Any

from helpers.children import Child
from helpers.models import default_model

GENERATED = 128
BATCH_TOKENS = 48
QUESTION = "Once upon a time there was a small model that ran on a laptop, and it said"
WORDS = ("Bread", "The sea", "A song", "Winter", "Paper", "My friend", "Time", "A river")
_FILLER = (
    "The model reads the prompt in batches, keeps keys and values of every token in its cache, "
    "and then writes one token after another. "
)


class Bare:
    """Nothing but decode and argmax, with the parameters that `LlamaCpp` uses."""

    def __init__(self) -> None:
        from helpers.load_options import LoadOptions
        from helpers.native import Context, Model

        options = LoadOptions(model_path=str(default_model()), n_ctx=4096, n_gpu_layers=0)
        self.model = Model(options)
        self.context = Context(self.model, options)

    def generate(self, prompt: str, count: int) -> tuple[float, float]:
        """Decode and take the largest logit, again and again."""
        context = self.context
        context.truncate(0, 0)
        started = time.perf_counter()
        tokens = self.model.tokenize(prompt)
        context.decode(tokens, 0, 0, logits=True)
        token, position = int(context.logits(-1).argmax()), len(tokens)
        first = time.perf_counter()
        for _ in range(count - 1):
            context.decode([token], position, 0, logits=True)
            token = int(context.logits(-1).argmax())
            position += 1
        return (first - started) * 1000, (count - 1) / (time.perf_counter() - first)


class Raw:
    """`llama_cpp.Llama`, streaming."""

    def __init__(self, **settings: Any) -> None:
        import llama_cpp

        self.llama = llama_cpp.Llama(str(default_model()), verbose=False, **settings)

    def generate(
        self, prompt: str, count: int, penalty: float = 1.0, grammar: str | None = None
    ) -> tuple[float, float]:
        """Stream through the class's own generator, without its cache of the last prompt."""
        self.llama.reset()  # type: ignore[no-untyped-call]
        options: dict[str, Any] = {"temperature": 0.0, "repeat_penalty": penalty}
        if grammar is not None:
            from llama_cpp.llama_grammar import LlamaGrammar

            options["grammar"] = LlamaGrammar.from_string(grammar, verbose=False)
        started = time.perf_counter()
        pieces = self.llama(prompt, max_tokens=count, stream=True, **options)
        times = [time.perf_counter() for _ in pieces]
        speed = max(self.written(prompt), 1) / max(times[-1] - times[0], 1e-9)
        return (times[0] - started) * 1000, speed

    def written(self, prompt: str) -> int:
        """Tokens of the last answer but for the last one, which is not computed any further."""
        # As `Llama` reads a prompt: `<|im_start|>` and its kind are one token each.
        return int(self.llama.n_tokens - len(self.llama.tokenize(prompt.encode(), special=True)))


class Ours:
    """`LlamaCpp`, in this process or isolated."""

    def __init__(self, *, isolate: bool) -> None:
        from helpers.llm import LlamaCpp

        self._grammar: Any = None
        self.llm = LlamaCpp(
            model_path=str(default_model()),
            temperature=0.0,
            repeat_penalty=1.0,
            isolate=isolate,
            n_gpu_layers=0,
        )

    def generate(self, prompt: str, count: int, penalty: float = 1.0) -> tuple[float, float]:
        """Stream, as a reader's loop would."""
        options: dict[str, Any] = {"max_tokens": count, "repeat_penalty": penalty}
        started = time.perf_counter()
        times = [time.perf_counter() for _ in self.llm.stream(prompt, **options)]
        timings = self.llm.last_timings
        assert timings is not None
        written = (timings.generated_tokens or 0) - 1
        return (times[0] - started) * 1000, max(written, 1) / (times[-1] - times[0])

    def first_token(self, size: int, salt: str) -> tuple[float, float]:
        """`(ms to the first token as the caller sees it, native prompt eval in ms)`."""
        first, _ = self.generate(self.long_prompt(size, salt), 1)
        timings = self.llm.last_timings
        assert timings is not None
        return first, timings.prompt_ms or 0.0

    def first_constrained(self, prompt: str, schema: dict[str, Any]) -> float:
        """Ms to the first token of JSON that fits a schema, as the caller sees it."""
        if self._grammar is None:
            from helpers.grammars import Grammar

            self._grammar = Grammar.from_json_schema(schema)
        started = time.perf_counter()
        for _ in self.llm.stream(prompt, grammar=self._grammar):
            break
        return (time.perf_counter() - started) * 1000

    def long_prompt(self, size: int, salt: str) -> str:
        """A text of about `size` tokens that begins with `salt`, so that no cache knows it."""
        text = salt
        while self.llm.get_num_tokens(text) < size:
            text += _FILLER
        while self.llm.get_num_tokens(text) > size:
            text = text.rpartition(" ")[0]
        return text

    def throughput(self, salt: str, together: bool) -> float:
        """Tokens/s of eight short prompts, side by side or one after the other."""
        prompts: list[Any] = [f"{salt}{word} is" for word in WORDS]
        started = time.perf_counter()
        if together:
            self.llm.batch(prompts, max_tokens=BATCH_TOKENS)
        else:
            for prompt in prompts:
                self.llm.invoke(prompt, max_tokens=BATCH_TOKENS)
        return len(WORDS) * BATCH_TOKENS / (time.perf_counter() - started)


def make(name: str) -> Any:
    """Load the contestant of this name: bare, raw, archived, ours or isolated."""
    if name == "bare":
        return Bare()
    if name == "raw":
        from helpers.native import usable_cores

        cores = usable_cores()
        return Raw(n_ctx=4096, n_threads=cores, n_threads_batch=cores, flash_attn=True)
    if name == "archived":
        # What the archived LangChain class passed on: its own n_batch of 8 and n_ctx of 512, and
        # llama-cpp-python's defaults for the rest (half the CPUs, flash attention off).
        return Raw(n_batch=8, n_ctx=512)
    return Ours(isolate=name == "isolated")


class Remote:
    """A contestant in its own process.

    >>> with Remote("bare") as bare:  # doctest: +SKIP
    ...     bare("generate", "Hello", 16)
    [5.1, 120.3]
    """

    def __init__(self, name: str) -> None:
        # One that has died is not replaced: the new one would not be warm.
        self._child = Child(
            "helpers.bench.contestants_child", name, role=f"ran {name!r}", lasting=False
        )

    def __call__(self, verb: str, *arguments: Any) -> Any:
        """Have a method called in the contestant's process; returns what it returned."""
        return self._child.ask([verb, *arguments])

    def __enter__(self) -> Remote:
        """Wait until the model is loaded."""
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._child.close()
