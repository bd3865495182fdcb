"""Uses that end, or once ended, the process: the table that `test_never_kills.py` runs.

To add one, append a `Use`: its code runs in a fresh interpreter, after `PRELUDE`, in an empty
folder. It leaves its answer in `result` (any value whose `repr` is compared), or raises.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = '''
import asyncio, contextlib, gc, os, signal, sys, threading, time, warnings
from pathlib import Path
from langchain_core.callbacks import BaseCallbackHandler
from helpers import Grammar, LlamaCpp, default_model
from helpers.engine import Engine, LoadOptions, Request

MODEL = str(default_model())
FRANCE = "The capital of France is"
STORY = "Once upon a time, there was a"
NO_END = {token: float("-inf") for token in (0, 1, 2)}  # the tokens that end a text

def make(**fields):
    given = {"model_path": MODEL, "temperature": 0, "max_tokens": 4, "n_ctx": 512,
             "n_threads": 1}  # two interpreters at a time share the cores
    return LlamaCpp(**{**given, **fields})

def works(llm):
    return "Paris" in llm.invoke(FRANCE, max_tokens=3)

def error(action):
    """The exception that an action ends in, as text; what it returned, if none."""
    try:
        return action()
    except BaseException as caught:
        return f"{type(caught).__name__}: {caught}"

def told(action):
    """The warnings of an action, as one text."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        action()
    return " | ".join(f"{w.category.__name__}: {w.message}" for w in seen)

def damaged(change):
    """A copy of the model whose first 4 MiB went through a function."""
    raw = Path(MODEL).read_bytes()
    Path("damaged.gguf").write_bytes(change(raw[:1 << 22]) + raw[1 << 22:])
    return "damaged.gguf"

def in_threads(count, action):
    """The answers of an action called in so many threads at once."""
    answers = [None] * count
    ready = threading.Barrier(count)
    def run(i):
        ready.wait()
        answers[i] = error(lambda: action(i))
    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return answers

def child_of(llm):
    """Process id of an isolated model's process."""
    return llm._engine._core.child_pid

def gone(pid):
    """Whether a process ends within ten seconds."""
    import psutil
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie":
            return True
        time.sleep(0.1)
    return False

def loaded():
    """How many models are loaded."""
    from helpers.engine.engine import _cores
    return sum(shared.core.alive for shared in list(_cores.values()))

class OnToken(BaseCallbackHandler):
    """Calls a function with each piece of text."""
    raise_error = True
    def __init__(self, action):
        self.action = action
    def on_llm_new_token(self, token, **kwargs):
        self.action(token)
'''


@dataclass(frozen=True)
class Gives:
    """`result` is this."""

    value: object


class Raises:
    """An exception of this kind, whose message has all these words."""

    def __init__(self, kind: str, *words: str) -> None:
        self.kind, self.words = kind, words


class Says:
    """`result` is a text that has all these words."""

    def __init__(self, *words: str) -> None:
        self.words = words


@dataclass(frozen=True)
class Exits:
    """The interpreter ends with this status, having printed this."""

    status: int
    printed: str


@dataclass(frozen=True)
class Use:
    """One hostile use.

    Attributes:
        group: What is hostile in it.
        name: What happens.
        code: Python, run after `PRELUDE`.
        expected: The outcome.
        posix: It needs signals, fork or the like.
    """

    group: str
    name: str
    code: str
    expected: Gives | Raises | Says | Exits
    posix: bool = False


def _grammar(name: str, text: str, *words: str) -> Use:
    return Use("grammars", name, f"make(grammar={text})", Raises("GrammarError", *words))


GRAMMARS = [
    _grammar("unclosed string", "'root ::= \"a'", "line 1"),
    _grammar("unclosed bracket", "'root ::= (\"a\"'", "line 1"),
    _grammar("no root", "'start ::= \"a\"'", "root"),
    _grammar("unknown rule", "'root ::= nothing'", "nothing"),
    _grammar("left recursion", '\'root ::= root "a" | "b"\'', "left"),
    _grammar("no way out", "'root ::= \"ab\" root'", "matches no text"),
    _grammar("a hundred thousand brackets", "'root ::= ' + '(' * 10**5", "line 1"),
    _grammar("repetitions of repetitions", "'root ::= ((\"ab\"{1000}){1000}){1000}'", "repe"),
    _grammar("a million brackets", "'root ::= ' + '(' * 10**6", "1000009 characters"),
    _grammar("no text at all", "''", "root"),
    _grammar("half a surrogate pair", "'root ::= \"\\ud800\"'", "line 1"),
    Use(
        "grammars",
        "unchecked LlamaGrammar",
        """
        from llama_cpp import LlamaGrammar
        make(grammar=LlamaGrammar.from_string("root ::= (", verbose=False)).invoke("x")
        """,
        Raises("GrammarError", "line 1"),
    ),
    Use(
        "grammars",
        "grammar and grammar_path",
        "make(grammar='root ::= \"a\"', grammar_path='x.gbnf')",
        Raises("ValueError", "not both", "x.gbnf"),
    ),
    Use(
        "grammars",
        "missing grammar file",
        "make(grammar_path='missing.gbnf')",
        Raises("GrammarError", "missing.gbnf", "No such file"),
    ),
    Use(
        "grammars",
        "a model as grammar file",
        "make(grammar_path=MODEL)",
        Raises("GrammarError", "UTF-8"),
    ),
    Use("grammars", "a number as grammar", "make(grammar=42)", Raises("TypeError", "42", "GBNF")),
    Use(
        "grammars",
        "bad grammar in a call, good one in the next",
        """
        llm = make()
        first = error(lambda: llm.invoke("Yes or no?", grammar="root ::= ("))
        result = first.split(":")[0], llm.invoke("Yes or no?", grammar='root ::= "no"')
        """,
        Gives(("GrammarError", "no")),
    ),
    Use(
        "grammars",
        "bad grammar set on a model",
        """
        llm = make()
        llm.grammar = "root ::= ("
        first = error(lambda: llm.invoke("x"))
        llm.grammar = 'root ::= "yes"'
        result = first.split(":")[0], llm.invoke("x")
        """,
        Gives(("GrammarError", "yes")),
    ),
    Use(
        "grammars",
        "a grammar without end",
        "result = make(grammar='root ::= \"ab\"+').invoke('x', logit_bias=NO_END).count('ab') > 1",
        Gives(True),
    ),
    Use(
        "grammars",
        "a grammar against the bias",
        """
        llm = make(grammar='root ::= "yes"')
        bans = {token: float("-inf") for token in range(49152)}
        result = error(lambda: llm.invoke("x", logit_bias=bans)), llm.invoke("x")
        result = result[0].split(":")[0], result[1]
        """,
        Gives(("GrammarError", "yes")),
    ),
]


def _file(name: str, setup: str, *words: str, posix: bool = False) -> Use:
    return Use(
        "files", name, setup + "\nmake(model_path=path)", Raises("ModelFileError", *words), posix
    )


def _written(name: str, raw: bytes, *words: str) -> Use:
    return _file(name, f"path = 'm.gguf'; Path(path).write_bytes({raw!r})", *words)


FILES = [
    _file("missing", "path = 'missing.gguf'", "no file", "missing.gguf"),
    _file("a folder", "path = '.'", "folder"),
    _file("a path with NUL", "path = 'a\\0b.gguf'", "cannot be the path"),
    _written("empty", b"", "empty"),
    _written("a page instead of a model", b"<!DOCTYPE html><html>" + b" " * 4096, "HTML"),
    _written(
        "a Git LFS pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
        "LFS",
    ),
    _written("old GGML", b"tjgg\x03\x00\x00\x00" + b"\x00" * 4096, "convert"),
    _written("another magic", b"NOPE" * 1024, "not GGUF", "NOPE"),
    _written("zeros", b"\x00" * 8192, "zero"),
    _written("absurd counts", b"GGUF\x03\x00\x00\x00" + b"\xff" * 4096, "m.gguf"),
    _file(
        "truncated",
        "path = 'm.gguf'; Path(path).write_bytes(Path(MODEL).read_bytes()[:50_000_000])",
        "truncated",
        "bytes are missing",
    ),
    _file(
        "unknown architecture",
        "path = damaged(lambda raw: raw.replace(b'llama', b'lamma', 1))",
        "architecture",
        "lamma",
    ),
    _file("a device without end", "path = '/dev/zero'", "not an ordinary file", posix=True),
    _file("a pipe", "path = 'm.gguf'; os.mkfifo(path)", "not an ordinary file", posix=True),
    _file("a link to itself", "path = 'm.gguf'; os.symlink(path, path)", "cannot be", posix=True),
    Use(
        "files",
        "any byte of the header flipped",
        """
        import random
        head = Path(MODEL).read_bytes()
        draw = random.Random(3)
        result = set()
        for _ in range(12):
            place = draw.randrange(1500)
            changed = bytearray(head)
            changed[place] ^= 1 << draw.randrange(8)
            Path("m.gguf").write_bytes(changed)
            answer = error(lambda: type(make(model_path="m.gguf").invoke("x")).__name__)
            result.add(answer.split(":")[0])
        result = result <= {"ModelFileError", "str"}
        """,
        Gives(True),
    ),
    Use(
        "files",
        "replaced while it is loaded",
        """
        import shutil
        shutil.copy(MODEL, "m.gguf")
        llm = make(model_path="m.gguf")
        Path("other").write_bytes(b"rubbish")
        os.replace("other", "m.gguf")
        result = works(llm), error(lambda: make(model_path="m.gguf")).split(":")[0]
        """,
        Gives((True, "ModelFileError")),
        posix=True,  # Windows does not let a mapped file be replaced
    ),
    Use(
        "files",
        "a name that is not ASCII",
        """
        import shutil
        os.mkdir("모델 ü")
        shutil.copy(MODEL, "모델 ü/언어 🦙.gguf")
        result = works(make(model_path="모델 ü/언어 🦙.gguf"))
        """,
        Gives(True),
    ),
    Use(
        "files",
        "a path from the home folder",
        """
        import shutil
        os.environ["HOME"] = os.environ["USERPROFILE"] = os.getcwd()
        shutil.copy(MODEL, "m.gguf")
        result = works(make(model_path="~/m.gguf"))
        """,
        Gives(True),
    ),
    Use(
        "files",
        "rubbish as a LoRA adapter",
        "Path('l.gguf').write_bytes(b'GGUF' + b'\\xff' * 999); make(lora_path='l.gguf')",
        Raises("ModelFileError", "LoRA", "l.gguf"),
    ),
    Use(
        "files",
        "a model as a LoRA adapter",
        "make(lora_path=MODEL)",
        Raises("ModelFileError", "LoRA", "adapter"),
    ),
    Use(
        "files",
        "a LoRA adapter that is not there",
        "make(lora_path='nowhere.gguf')",
        Raises("ModelFileError", "no LoRA adapter", "nowhere.gguf"),
    ),
]


def _parameter(name: str, fields: str, kind: str, *words: str) -> Use:
    return Use("parameters", name, f"make({fields}).invoke('x')", Raises(kind, *words))


def _kwargs(name: str, kwargs: str, kind: str, *words: str) -> Use:
    return _parameter(name, f"model_kwargs={{{kwargs}}}", kind, *words)


PARAMETERS = [
    _parameter("negative context", "n_ctx=-1", "ValueError", "n_ctx=-1", "out of range"),
    _parameter("negative batch", "n_batch=-8", "ValueError", "n_batch=-8"),
    _parameter("batch of nothing", "n_batch=0", "ValueError", "n_batch=0"),
    _parameter("context beyond any memory", "n_ctx=8_000_000", "DeviceError", "MiB", "n_ctx="),
    _parameter("context beyond 32 bits", "n_ctx=2**40", "ValueError", "n_ctx"),
    _parameter("a million threads", "n_threads=10**6", "ValueError", "n_threads", "512"),
    _parameter("no threads", "n_threads=0", "ValueError", "n_threads=0"),
    _parameter("no sequences", "n_parallel=0", "ValueError", "n_parallel=0"),
    _parameter("temperature that is no number", "temperature=float('nan')", "ValueError", "nan"),
    _parameter("negative max_tokens", "max_tokens=-7", "ValueError", "max_tokens=-7"),
    _parameter("seed beyond 32 bits", "seed=2**40", "ValueError", "seed"),
    _parameter("endless rope", "rope_freq_base=float('inf')", "ValueError", "rope_freq_base=inf"),
    _parameter("unknown KV type", "type_k='q9'", "ValueError", "type_k='q9'", "q8_0"),
    _parameter(
        "quantized V without flash attention",
        "type_v='q8_0', flash_attn=False",
        "DeviceError",
        "V cache",
        "flash_attn",
    ),
    _parameter("misspelt name", "temprature=0.5", "TypeError", "temprature", "'temperature'"),
    _parameter("empty stop string", "stop=['']", "ValueError", "stop=['']"),
    _parameter("all the logprobs and more", "logprobs=10**9", "ValueError", "logprobs"),
    _parameter("bias beyond the vocabulary", "logit_bias={10**7: 1.0}", "ValueError", "10000000"),
    _parameter("bias before the vocabulary", "logit_bias={-1: 1.0}", "ValueError", "-1"),
    _parameter("endless bias", "logit_bias={1: float('inf')}", "ValueError", "inf"),
    _kwargs("misspelt argument", "'n_ubach': 8", "TypeError", "n_ubach", "'n_ubatch'"),
    _kwargs("argument of another kind", "'n_ubatch': 'many'", "TypeError", "n_ubatch='many'"),
    _kwargs("flash attention number 7", "'flash_attn': 7", "ValueError", "flash_attn=7"),
    _kwargs("argument that is a field", "'n_ctx': 8", "ValueError", "n_ctx=8"),
    _kwargs("argument not served", "'draft_model': 1", "ValueError", "draft_model"),
    _kwargs("negative shares", "'tensor_split': [-1.0]", "ValueError", "tensor_split"),
    _kwargs(
        "more layers than llama.cpp knows",
        "'kv_overrides': {'llama.block_count': 10**9}",
        "ValueError",
        "kv_overrides",
        "block_count",
    ),
    _kwargs(
        "epsilon below zero",
        "'kv_overrides': {'llama.attention.layer_norm_rms_epsilon': -1.0}",
        "ValueError",
        "epsilon",
    ),
    _kwargs(
        "experts of a model without",
        "'kv_overrides': {'llama.expert_count': 10**6}",
        "ValueError",
        "expert_count",
    ),
    _kwargs(
        "metadata of another type",
        "'kv_overrides': {'llama.block_count': 'thirty'}",
        "ValueError",
        "u32",
        "thirty",
    ),
    Use(
        "parameters",
        "unknown name in a call",
        "make().invoke('x', max_token=3)",
        Raises("TypeError", "max_token", "'max_tokens'"),
    ),
    Use(
        "parameters",
        "layers for a device that is not there",
        """
        from helpers import devices
        there = any(device.offloads for device in devices())
        result = there or told(lambda: make(n_gpu_layers=20, isolate=False))
        """,
        Says("UserWarning", "n_gpu_layers=20", "doctor"),
    ),
    Use(
        "parameters",
        "batch larger than the context",
        "result = told(lambda: make(n_ctx=64, n_batch=100).invoke('x'))",
        Says("UserWarning", "n_batch=100", "n_ctx=64"),
    ),
    Use(
        "parameters",
        "names of the archived class",
        "result = told(lambda: make(f16_kv=True, n_parts=-1, logits_all=True, lora_base='x'))",
        Says("DeprecationWarning", "f16_kv", "n_parts", "logits_all", "lora_base", "type_k"),
    ),
    Use(
        "parameters",
        "numbers at their limits",
        """
        llm = make(top_k=-5, n_batch=1, stop=[f"stop {i}" for i in range(1000)], logprobs=10**5)
        llm.invoke(FRANCE, temperature=1e-38, top_p=0, min_p=1, typical_p=0, seed=2**32 - 1)
        llm.invoke(FRANCE, temperature=1e6, repeat_penalty=1e6, last_n_tokens_size=10**9)
        bans = {token: float("-inf") for token in range(49152)}
        llm.invoke(FRANCE, temperature=1, logit_bias=bans)
        result = works(llm)
        """,
        Gives(True),
    ),
]

PROMPTS = [
    Use("prompts", "empty", "result = type(make().invoke('')).__name__", Gives("str")),
    Use("prompts", "NUL", "result = type(make().invoke('a\\0b')).__name__", Gives("str")),
    Use(
        "prompts",
        "half a surrogate pair",
        "make().invoke('a\\ud800b')",
        Raises("ValueError", "surrogate", "character 1"),
    ),
    Use(
        "prompts",
        "a megabyte of one letter",
        """
        llm = make()
        result = error(lambda: llm.invoke("a" * 10**6)), works(llm)
        result = result[0].split(":")[0], result[1]
        """,
        Gives(("ContextOverflowError", True)),
    ),
    Use(
        "prompts",
        "megabytes of other characters",
        """
        llm = make()
        texts = [character * 10**6 for character in ("1", " ", "\\n", "é", "a1 \\n")]
        result = {error(lambda: llm.invoke(text)).split(":")[0] for text in texts}, works(llm)
        """,
        Gives(({"ContextOverflowError"}, True)),
    ),
    Use(
        "prompts",
        "one token too many",
        """
        llm = make(n_ctx=64)
        text = "a" + " a" * 63
        assert llm.get_num_tokens(text) == 64
        llm.invoke(text)
        """,
        Raises("ContextOverflowError", "64 tokens", "n_ctx="),
    ),
    Use(
        "prompts",
        "just short enough",
        """
        answer = make(n_ctx=64, max_tokens=None).generate(["a" + " a" * 62]).generations[0][0]
        result = answer.generation_info["token_usage"]["total_tokens"]
        """,
        Gives(64),
    ),
    Use(
        "prompts",
        "one too long among others",
        """
        answers = make().batch([FRANCE, "a " * 9999, FRANCE], return_exceptions=True)
        result = [type(answer).__name__ for answer in answers], "Paris" in answers[2]
        """,
        Gives((["str", "ContextOverflowError", "str"], True)),
    ),
    Use(
        "prompts",
        "thousands of special tokens",
        "make().invoke('<|im_start|>' * 20_000)",
        Raises("ContextOverflowError", "20000 tokens"),
    ),
    Use(
        "prompts",
        "emoji made of many parts",
        "result = type(make().invoke('👩‍👩‍👧‍👦' * 20)).__name__",
        Gives("str"),
    ),
    Use("prompts", "bytes", "make().invoke(b'x')", Raises("NotImplementedError", "message type")),
    Use("prompts", "nothing", "make().invoke(None)", Raises("ValueError")),
    Use(
        "prompts",
        "tokens beyond the vocabulary",
        """
        engine = Engine(LoadOptions(model_path=MODEL, n_ctx=64))
        ask = lambda *tokens: error(
            lambda: engine.generate(Request(prompt=tokens, max_tokens=1)).finish_reason
        )
        result = [ask(1, wrong).split(":")[0] for wrong in (10**6, -1, 2**70, 1.5, "a")]
        result += [ask(), ask(1, 2)]
        """,
        Gives(
            [
                *("ValueError", "ValueError", "ValueError", "TypeError", "TypeError"),
                "ValueError: The prompt is empty, and this model has no token to begin with.",
                "length",
            ]
        ),
    ),
]

CONCURRENCY = [
    Use(
        "concurrency",
        "16 threads at once",
        "llm = make(); result = in_threads(16, lambda i: works(llm))",
        Gives([True] * 16),
    ),
    Use(
        "concurrency",
        "gather of ainvoke and astream",
        """
        llm = make()
        async def streamed():
            return "".join([piece async for piece in llm.astream(FRANCE)])
        async def main():
            calls = [llm.ainvoke(FRANCE) if i % 2 else streamed() for i in range(10)]
            return await asyncio.gather(*calls)
        result = ["Paris" in answer for answer in asyncio.run(main())]
        """,
        Gives([True] * 10),
    ),
    Use(
        "concurrency",
        "cancelled tasks",
        """
        llm = make(max_tokens=400)
        async def main():
            tasks = [asyncio.create_task(llm.ainvoke(STORY)) for _ in range(4)]
            await asyncio.sleep(0.3)
            for task in tasks: task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            return [type(answer).__name__ for answer in answers], works(llm)
        result = asyncio.run(main())
        """,
        Gives((["CancelledError"] * 4, True)),
    ),
    Use(
        "concurrency",
        "two event loops in two threads",
        """
        llm = make()
        async def main():
            return await asyncio.gather(*[llm.ainvoke(FRANCE) for _ in range(3)])
        answers = in_threads(2, lambda i: asyncio.run(main()))
        result = [all("Paris" in answer for answer in loop) for loop in answers]
        """,
        Gives([True, True]),
    ),
    Use(
        "concurrency",
        "batches inside a thread pool",
        """
        llm = make()
        batches = in_threads(4, lambda i: llm.batch([FRANCE] * 3))
        result = [["Paris" in answer for answer in batch] for batch in batches]
        """,
        Gives([[True] * 3] * 4),
    ),
    Use(
        "concurrency",
        "abandoned streams",
        """
        llm = make(max_tokens=None, n_ctx=2048, logit_bias=NO_END)
        for _ in range(5):
            for piece in llm.stream(STORY):
                break
        result = works(llm)
        """,
        Gives(True),
    ),
    Use(
        "concurrency",
        "abandoned asynchronous streams",
        """
        llm = make(max_tokens=None, n_ctx=2048, logit_bias=NO_END)
        async def main():
            for _ in range(5):
                async for piece in llm.astream(STORY):
                    break
            return "Paris" in await llm.ainvoke(FRANCE, max_tokens=3)
        result = asyncio.run(main())
        """,
        Gives(True),
    ),
    Use(
        "concurrency",
        "a stream read by another thread",
        """
        stream = make().stream(FRANCE)
        first = next(stream)
        rest = in_threads(1, lambda i: "".join(stream))[0]
        result = ["Paris" in first + rest]
        """,
        Gives([True]),
    ),
    Use(
        "concurrency",
        "a stream read by four threads",
        """
        llm = make(max_tokens=40)
        stream = llm.stream(STORY)
        answers = in_threads(4, lambda i: list(stream))
        kinds = {type(a).__name__ if isinstance(a, list) else a for a in answers}
        result = kinds <= {"list", "ValueError: generator already executing"}, works(llm)
        """,
        Gives((True, True)),
    ),
    Use(
        "concurrency",
        "closed while another thread generates",
        """
        llm = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END)
        def act(i):
            if i: return llm.invoke(STORY)
            time.sleep(0.5)
            llm.close()
        result = [answer[:30] for answer in in_threads(3, act)[1:]]
        """,
        Gives(["HelpersError: The model was cl"] * 2),
    ),
    Use(
        "concurrency",
        "event loop closed during a stream",
        """
        llm = make(max_tokens=300)
        loop = asyncio.new_event_loop()
        stream = llm.astream(STORY)
        loop.run_until_complete(anext(stream))
        loop.close()
        time.sleep(0.3)
        result = works(llm)
        """,
        Gives(True),
    ),
    Use(
        "concurrency",
        "callbacks that raise",
        """
        llm = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END)
        kept = None
        try:
            llm.invoke(STORY, config={"callbacks": [OnToken(lambda t: 1 / 0)]})
        except ZeroDivisionError as caught:
            kept = caught  # as a notebook keeps the last traceback
        result = type(kept).__name__, works(llm)
        """,
        Gives(("ZeroDivisionError", True)),
    ),
    Use(
        "concurrency",
        "a callback that calls the model again",
        """
        llm = make()
        inner = []
        handler = OnToken(lambda t: inner.append(works(llm)))
        answer = llm.invoke(FRANCE, config={"callbacks": [handler]})
        result = "Paris" in answer, bool(inner) and all(inner)
        """,
        Gives((True, True)),
    ),
    Use(
        "concurrency",
        "different models at once",
        """
        models = [make(n_ctx=256 * (i + 1)) for i in range(4)]
        result = in_threads(8, lambda i: works(models[i % 4]))
        """,
        Gives([True] * 8),
    ),
]

LIFECYCLE = [
    Use(
        "lifecycle",
        "use after close",
        "llm = make(); llm.close(); llm.invoke('x')",
        Raises("HelpersError", "has been closed"),
    ),
    Use(
        "lifecycle",
        "counting tokens after close",
        "llm = make(); llm.close(); llm.get_num_tokens('x')",
        Raises("HelpersError", "has been closed"),
    ),
    Use(
        "lifecycle",
        "closed twice, and by two threads",
        """
        llm = make()
        result = in_threads(2, lambda i: llm.close())
        llm.close()
        """,
        Gives([None, None]),
    ),
    Use(
        "lifecycle",
        "closed by its own callback",
        """
        llm = make(max_tokens=100)
        llm.invoke(STORY, config={"callbacks": [OnToken(lambda t: llm.close())]})
        """,
        Raises("HelpersError", "closed during this call"),
    ),
    Use(
        "lifecycle",
        "a shared model closed by one of two",
        """
        one, two = make(), make(seed=7)
        one.close()
        result = works(two)
        """,
        Gives(True),
    ),
    Use(
        "lifecycle",
        "forgotten during a stream",
        """
        stream = make(max_tokens=6).stream(STORY)
        next(stream)
        gc.collect()
        result = bool("".join(stream))
        """,
        Gives(True),
    ),
    Use(
        "lifecycle",
        "an engine forgotten during a stream",
        """
        options = LoadOptions(model_path=MODEL, n_ctx=256)
        stream = Engine(options).stream(Request(prompt=FRANCE, max_tokens=4, temperature=0))
        gc.collect()
        result = "Paris" in "".join(piece.text for piece in list(stream)[:-1])
        """,
        Gives(True),
    ),
    Use(
        "lifecycle",
        "deleted with a stream half read",
        """
        llm = make(max_tokens=None)
        stream = llm.stream(STORY)
        next(stream)
        del llm, stream
        gc.collect()
        result = loaded()
        """,
        Gives(0),
    ),
    Use(
        "lifecycle",
        "copied and pickled",
        """
        import copy, pickle
        llm = make(stop=["\\n"])
        copies = [copy.copy(llm), copy.deepcopy(llm), pickle.loads(pickle.dumps(llm))]
        result = [works(made) for made in copies], [made.stop for made in copies], loaded()
        """,
        Gives(([True] * 3, [["\n"]] * 3, 1)),
    ),
    Use(
        "lifecycle",
        "used in a forked process",
        """
        llm = make()
        works(llm)
        warnings.simplefilter("ignore")  # Python warns of forks beside threads
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            answers = [error(lambda: llm.invoke("x")), error(lambda: works(make(n_ctx=256)))]
            os.write(writer, repr(answers).encode())
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        result = os.read(reader, 9999).decode() + str(works(llm))
        """,
        Says("before the process was forked", "True]True"),
        posix=True,
    ),
    Use(
        "lifecycle",
        "used in a forked worker of multiprocessing",
        """
        import multiprocessing
        llm = make()
        warnings.simplefilter("ignore")
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        worker = context.Process(target=lambda: answers.put(error(lambda: llm.invoke("x"))))
        worker.start()
        result = answers.get()
        worker.join()
        result += f" {worker.exitcode} {works(llm)}"
        """,
        Says("before the process was forked", "0 True"),
        posix=True,
    ),
    Use(
        "lifecycle",
        "the interpreter ends during a generation",
        """
        llm = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END)
        story = lambda: llm.invoke(STORY)
        threading.Thread(target=story, daemon=True).start()
        time.sleep(0.3)
        print("ends")
        sys.exit(0)
        """,
        Exits(0, "ends"),
    ),
    Use(
        "lifecycle",
        "the interpreter ends during a stream",
        """
        stream = make(max_tokens=None, n_ctx=4096, logit_bias=NO_END).stream(STORY)
        next(stream)
        print("ends")
        sys.exit(0)
        """,
        Exits(0, "ends"),
    ),
    Use(
        "lifecycle",
        "sys.exit in a callback",
        """
        handler = OnToken(lambda t: sys.exit(3))
        make().invoke(STORY, config={"callbacks": [handler]})
        """,
        Exits(3, ""),
    ),
    Use(
        "lifecycle",
        "made again ten times",
        """
        import psutil
        sizes = []
        for i in range(11):
            llm = make(seed=i, verbose=False)
            assert works(llm)
            sizes.append(psutil.Process().memory_info().rss / 2**20)
        result = sizes[-1] - sizes[1] < 20
        """,
        Gives(True),
    ),
    Use(
        "lifecycle",
        "made again ten times with other options",
        """
        import psutil
        sizes = []
        for i in range(11):
            llm = make(n_ctx=512 + i)
            assert works(llm)
            sizes.append(psutil.Process().memory_info().rss / 2**20)
        result = sizes[-1] - sizes[2] < 60, loaded()
        """,
        Gives((True, 1)),
    ),
    Use(
        "lifecycle",
        "interrupted while it reads the prompt",
        """
        llm = make(n_ctx=8192)
        text = "word and " * 3900
        sent = []
        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(1.0, interrupt).start()
        answer = error(lambda: llm.invoke(text))
        free = works(llm)  # waits for the model
        # Reading on would take many seconds.
        result = answer, free, time.monotonic() - sent[0] < 4
        """,
        Gives(("KeyboardInterrupt: ", True, True)),
        posix=True,
    ),
    Use(
        "lifecycle",
        "interrupted while it generates",
        """
        llm = make(n_ctx=8192, max_tokens=None)
        sent = []
        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(1.0, interrupt).start()
        answer = error(lambda: llm.invoke(STORY, logit_bias=NO_END))
        free = works(llm)
        result = answer, free, time.monotonic() - sent[0] < 4
        """,
        Gives(("KeyboardInterrupt: ", True, True)),
        posix=True,
    ),
]


def _dies(name: str, deed: str) -> Use:
    """The child is ended by `deed(pid)` during a call; the next call works."""
    code = f"""
    llm = make(isolate=True, n_ctx=4096, max_tokens=None, logit_bias=NO_END)
    {deed}
    first = error(lambda: llm.invoke(text, config={{"callbacks": [OnToken(on_token)]}}))
    result = first.split(":")[0] + " " + " ".join(first.split()) + f" {{works(llm)}}"
    """
    return Use(
        "isolation",
        name,
        code,
        Says("EngineCrashed", "The kernel is unharmed", "True"),
        posix=True,
    )


_KILL = "os.kill(child_of(llm), signal.{})"

ISOLATION = [
    *[
        _dies(
            f"{signal} of the child while it generates",
            f"text, on_token = STORY, lambda t: {_KILL.format(signal)}",
        )
        for signal in ("SIGABRT", "SIGSEGV", "SIGKILL")
    ],
    _dies(
        "SIGKILL of the child while it reads the prompt",
        "text, on_token = 'word and ' * 1800, print; "
        f"threading.Timer(0.5, lambda: {_KILL.format('SIGKILL')}).start()",
    ),
    Use(
        "isolation",
        "SIGABRT of the idle child",
        """
        llm = make(isolate=True)
        pid = child_of(llm)
        os.kill(pid, signal.SIGABRT)
        answers = [error(lambda: works(llm)) for _ in range(2)]
        result = f"{gone(pid)} {answers[1]}"
        """,
        Gives("True True"),
        posix=True,
    ),
    Use(
        "isolation",
        "the child aborts while it loads",
        """
        # Python runs sitecustomize at the start of each process with this path.
        Path("sitecustomize.py").write_text(
            "import os, sys, threading\\n"
            "if 'helpers.isolation.child' in sys.orig_argv:\\n"
            "    threading.Timer(0.2, os.abort).start()\\n"
        )
        os.environ["PYTHONPATH"] = os.getcwd()
        first = error(lambda: make(isolate=True))
        del os.environ["PYTHONPATH"]
        result = f"{first} {works(make(isolate=True))}"
        """,
        Says("EngineCrashed", "SIGABRT", "True"),
        posix=True,
    ),
    Use(
        "isolation",
        "the child's input is closed",
        """
        llm = make(isolate=True)
        os.close(llm._engine._core._process.stdin.fileno())
        answers = [error(lambda: works(llm)) for _ in range(3)]
        result = answers[-1]
        """,
        Gives(True),
        posix=True,
    ),
    Use(
        "isolation",
        "text printed between the messages",
        """
        Path("sitecustomize.py").write_text(
            "import os, threading\\n"
            "os.write(1, b'a banner of some package\\\\n' * 9)\\n"
            "def more():\\n"
            "    os.write(1, b'noise ' * 99); threading.Timer(0.05, more).start()\\n"
            "threading.Timer(3, more).start()\\n"
        )
        os.environ["PYTHONPATH"] = os.getcwd()
        result = [works(make(isolate=True)) for _ in range(3)]
        """,
        Gives([True] * 3),
        posix=True,
    ),
    Use(
        "isolation",
        "the kernel is killed during a generation",
        """
        import subprocess
        code = '''
        import os, signal, sys
        from helpers import LlamaCpp, default_model
        llm = LlamaCpp(model_path=default_model(), isolate=True, max_tokens=None)
        stream = llm.stream("Once upon a time")
        next(stream)
        print(llm._engine._core.child_pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        '''
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        result = done.returncode, gone(int(done.stdout))
        """,
        Gives((-9, True)),
        posix=True,
    ),
    Use(
        "isolation",
        "memory limited by the system",
        """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
        warnings.simplefilter("ignore")  # the model was trained for less
        first = error(lambda: make(isolate=True, n_ctx=200_000))
        result = f"{first} {works(make(isolate=True))}"
        """,
        Says("DeviceError", "200000", "n_ctx", "True"),
        posix=True,
    ),
    Use(
        "isolation",
        "a context beyond any memory",
        "make(isolate=True, n_ctx=8_000_000)",
        Raises("DeviceError", "MiB", "n_ctx="),
    ),
    Use(
        "isolation",
        "the file cut off under the child",
        """
        import shutil
        shutil.copy(MODEL, "m.gguf")
        llm = make(isolate=True, model_path="m.gguf")
        os.truncate("m.gguf", 10_000)
        first = error(lambda: works(llm))
        shutil.copy(MODEL, "m.gguf")
        result = first.split(":")[0], works(llm)
        """,
        Gives(("EngineCrashed", True)),
        posix=True,
    ),
    Use(
        "isolation",
        "16 threads at once",
        "llm = make(isolate=True); result = in_threads(16, lambda i: works(llm))",
        Gives([True] * 16),
    ),
    Use(
        "isolation",
        "the child dies under 8 threads",
        """
        llm = make(isolate=True, max_tokens=200)
        pid = child_of(llm)
        threading.Timer(0.5, lambda: os.kill(pid, signal.SIGKILL)).start()
        answers = in_threads(8, lambda i: llm.invoke(f"{i}: " + STORY))
        again = in_threads(8, lambda i: works(llm))
        llm.close()
        result = {a.split(":")[0] for a in answers}, again, llm._engine._shared.users
        """,
        Gives(({"EngineCrashed"}, [True] * 8, 0)),
        posix=True,
    ),
    Use(
        "isolation",
        "what cannot be pickled",
        """
        class Odd(str):
            def __reduce__(self): raise TypeError("not me")
        llm = make(isolate=True)
        engine = llm._engine
        handler = OnToken(lambda t: None)
        first = error(lambda: engine.generate(Request(prompt=Odd("x"), max_tokens=1)))
        result = first, "Paris" in llm.invoke(FRANCE, config={"callbacks": [handler]})
        """,
        Gives(("TypeError: not me", True)),
    ),
    Use(
        "isolation",
        "a bad call to the child",
        """
        llm = make(isolate=True)
        result = [error(call).split(":")[0] for call in (
            lambda: llm.invoke("a\\ud800b"),
            lambda: llm.invoke("a " * 9999),
            lambda: llm.invoke("x", grammar="root ::= ("),
            lambda: llm.invoke("x", logit_bias={10**7: 1}),
            lambda: llm.get_num_tokens("\\ud800"),
        )] + [works(llm)]
        """,
        Gives(
            ["ValueError", "ContextOverflowError", "GrammarError", "ValueError", "ValueError", True]
        ),
    ),
    Use(
        "isolation",
        "closed while another thread generates",
        """
        llm = make(isolate=True, max_tokens=None, n_ctx=4096, logit_bias=NO_END)
        pid = child_of(llm)
        def act(i):
            if i: return llm.invoke(STORY)
            time.sleep(0.5)
            llm.close()
        answers = in_threads(2, act)
        result = answers[1], gone(pid)
        """,
        Says("HelpersError", "closed", "True"),
    ),
    Use(
        "isolation",
        "interrupted while it generates",
        """
        llm = make(isolate=True, n_ctx=8192, max_tokens=None)
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        pid = child_of(llm)
        result = error(lambda: llm.invoke(STORY, logit_bias=NO_END)), works(llm)
        result += (child_of(llm) == pid,)
        """,
        Gives(("KeyboardInterrupt: ", True, True)),
        posix=True,
    ),
]

_ACCELERATED = """
    from helpers import practice_accelerator, predict_memory, suggest_gpu_layers
    accelerator = practice_accelerator()
    device = accelerator.start()
"""


def _device(name: str, code: str, expected: Gives | Raises | Says, posix: bool = False) -> Use:
    """A use of the practice accelerator, which stands for any device that can fail."""
    return Use("devices", name, f"{_ACCELERATED}{code}", expected, posix)


DEVICES = [
    _device(
        "closed before the model is made",
        """
    accelerator.close()
    result = error(lambda: make(devices=[device], n_gpu_layers=5))
    """,
        Says("DeviceError", "No practice accelerator answers", "Start it again"),
    ),
    _device(
        "killed while a model generates",
        """
    llm = make(devices=[device], n_gpu_layers=-1, n_ctx=4096, max_tokens=None, logit_bias=NO_END)
    kill = OnToken(lambda t: os.kill(accelerator.pid, signal.SIGKILL))
    first = error(lambda: llm.invoke(STORY, config={"callbacks": [kill]}))
    second = error(lambda: llm.invoke(FRANCE))
    with make() as other:
        result = f"{first} {second} {works(other)}"
    """,
        Says("EngineCrashed", "RPC server was lost", "DeviceError", "True"),
        posix=True,
    ),
    _device(
        "killed between prediction and load",
        """
    predict_memory(devices=[device])
    os.kill(accelerator.pid, signal.SIGKILL)
    result = [error(lambda: make(devices=[device])).split(":")[0],
              error(lambda: suggest_gpu_layers(devices=[device])).split(":")[0]]
    """,
        Gives(["DeviceError", "DeviceError"]),
        posix=True,
    ),
    _device(
        "in this process",
        """
    make(devices=[device], n_gpu_layers=3, isolate=False)
    """,
        Raises("DeviceError", "another process", "isolate"),
    ),
    _device(
        "a context far beyond its memory",
        """
    accelerator.close()
    accelerator = practice_accelerator(64)
    device = accelerator.start()
    # It is refused, or the server dies of it; the device is there again either way.
    first = error(lambda: make(devices=[device], n_gpu_layers=-1, n_ctx=8192))
    with make(devices=[device]) as llm:
        result = f"{first} {llm.load_report.n_gpu_layers < 31} {works(llm)}"
    """,
        Says("fewer n_gpu_layers", "True True"),
        posix=True,
    ),
    _device(
        "four models at once",
        """
    def act(i):
        with make(devices=[device], n_gpu_layers=i * 10) as llm:
            return works(llm)
    result = in_threads(4, act)
    """,
        Gives([True] * 4),
    ),
    _device(
        "no device at all by that name",
        """
    import dataclasses
    made_up = dataclasses.replace(device, name="CUDA7", endpoint=None)
    result = error(lambda: make(devices=[made_up], n_gpu_layers=3))
    """,
        Says("DeviceError", "CUDA7", "Devices here"),
    ),
    _device(
        "forked with a simulator and an accelerator",
        """
    predict_memory(devices=[device])
    pid = os.fork()
    if pid == 0:
        plan = error(lambda: predict_memory(n_ctx=256, n_gpu_layers=0))
        os._exit(0 if getattr(plan, "fits", False) else 1)
    result = os.waitpid(pid, 0)[1], predict_memory(n_ctx=300, devices=[device]).fits
    """,
        Gives((0, True)),
        posix=True,
    ),
]

USES = [*GRAMMARS, *FILES, *PARAMETERS, *PROMPTS, *CONCURRENCY, *LIFECYCLE, *ISOLATION, *DEVICES]
