"""The fields of a llama.cpp model that generates in LangChain: sampling, and its requests."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, PrivateAttr

from helpers.checks import check_path, check_switch
from helpers.engine import Request
from helpers.engine.options import stop_strings
from helpers.grammars import Grammar
from helpers.llm.loading import LoadingFields
from helpers.llm.results import LastTimings
from helpers.load_options import LoadOptions
from helpers.parameters import reject_unknown
from helpers.timings import Timings

SAMPLING = tuple(
    field.name
    for field in dataclasses.fields(Request)
    if field.name
    not in {
        "prompt",
        "stop",
        "grammar",
        "last_n",
        "fast_forward",
        "shown_tokens",
        "reasoning",
        "user",
        "speculate",
    }
)
"""What fields, calls and requests call by the same name."""

PER_CALL = (*SAMPLING, "last_n_tokens_size", "grammar", "grammar_path", "speculate")
"""Fields that can also be given per call."""

_SAME_ANSWER = {
    "prompt", "isolate", "n_parallel", "use_mmap", "use_mlock", "check_tensors", "no_perf",
    "continuous_batching", "user", "cache_dir", "cache_dir_mib", "speculate",
}  # fmt: skip
"""What `LoadOptions` and `Request` have and no answer depends on."""


def _alone_or_listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class ModelFields(LoadingFields):
    """What the faces that generate share: sampling, requests, timings."""

    cache_dir: bool | str | Path | None = None
    """Folder in which the computed state of a long prompt (512 tokens or more) is kept, so that a
    prompt that begins like it need not be read again after a restart; True: a folder that `python
    -m helpers clean` knows. Text and seeds give the same answers with it and without. The files
    hold what was in the prompts: the folder is made for its owner alone, and one that others may
    write to is not used. Calls side by side do without, as do models that are recurrent or have a
    sliding window."""

    cache_dir_mib: int = LoadOptions.cache_dir_mib
    """Most MiB of such files; those that were not used for the longest time go first."""

    speculate: str | bool | Path | None = None
    """Guess the next tokens and check them together, which is faster where guesses are right:
    "lookup" guesses what followed the same text before (quoting, rewriting, extracting), the path
    of a GGUF what that draft model, a smaller one of the same family, would write. The answers are
    those without it, but for ties that the rounding of a larger batch decides, and it stops where
    it does not pay. A call can leave it out: `llm.invoke(prompt, speculate=False)`."""

    # -- sampling; each can also be given per call

    max_tokens: int | None = 256
    """Most tokens to generate; None, 0 or -1: until the context is full."""

    temperature: float | None = 0.8
    """0 takes the likeliest token each time; higher values vary more."""

    top_k: int | None = 40
    """Draw from the k likeliest tokens; 0: from all."""

    top_p: float | None = 0.95
    """Draw from the likeliest tokens that make up this probability, 0 to 1."""

    min_p: float = 0.05
    """Leave out tokens below this share of the likeliest one's probability, 0 to 1."""

    typical_p: float = 1.0
    """Locally typical sampling, 0 to 1; 1 is off."""

    repeat_penalty: float | None = 1.1
    """Above 1 makes the answer's recent tokens less likely; 1 is off."""

    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each recent occurrence."""

    presence_penalty: float = 0.0
    """Subtracted once from the logit of each recent token."""

    last_n_tokens_size: int | None = 64
    """How many of the answer's tokens the penalties look at; -1: all."""

    seed: int | None = -1
    """Same seed, same text; -1: a random one for each call."""

    stop: Annotated[list[str] | None, BeforeValidator(_alone_or_listed)] = None
    """Strings that end the answer, or one; they are not part of it. A call's own are added."""

    logprobs: int | None = None
    """Log probabilities of this many likeliest tokens, in `generation_info["logprobs"]`."""

    logit_bias: dict[int, float] | None = None
    """Values to add to the logits of tokens."""

    echo: bool | None = False
    """Begin the answer with the prompt."""

    suffix: str | None = None
    """Text to put after the answer."""

    grammar: Any = None
    """What the answer must match: a `Grammar`, or GBNF as a string. A token is chosen as without a
    grammar; if the grammar refuses it, once more by the same settings from what is allowed."""

    grammar_path: str | Path | None = None
    """A GBNF file instead of `grammar`."""

    _checked: tuple[Any, Any, Grammar | None] = PrivateAttr(default=(None, None, None))
    _timings: LastTimings = PrivateAttr(default_factory=LastTimings)

    def _check_values(self) -> None:
        self._request("")

    def _take_over(self, trial: Self) -> None:
        self._checked = trial._checked

    @property
    def last_timings(self) -> Timings | None:
        """Timings of the last call made by this thread or task; None before the first.

        A chain runs its steps in tasks of their own when it is awaited; there, read the timings
        from the result's `generation_info` or with a `TimingsRecorder`.
        """
        return self._timings.get()

    # -- calls ------------------------------------------------------------------------------------

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that decides an answer: what LangChain's caches and tracers know a model by.

        It is taken from what the engine is given, so that no field can be forgotten.
        """
        request = self._request("")
        found = {
            field.name: getattr(given, field.name)
            for given in (self._engine.options, request)
            for field in dataclasses.fields(given)
            if field.name not in _SAME_ANSWER
        }
        if request.grammar is not None:
            found["grammar"] = f"{request.grammar!r}, SHA-256 {request.grammar.key}"
        # LangChain writes a call's strings over "stop".
        found["stop_strings"] = found.pop("stop")
        return {**found, "files": self._engine.files}

    def _for_call(self, stop: Any, given: Mapping[str, Any]) -> Self:
        """This model with a call's parameters as its fields, its stop strings added to its own."""
        reject_unknown(given, PER_CALL, f"A call of {type(self).__name__}")
        changes = dict(given)
        if check_switch("speculate", given.get("speculate", False)) and not self.speculate:
            raise ValueError(
                "speculate=True: the model was loaded without guesses. Give the model itself "
                'speculate="lookup", or the path of a draft model; a call can leave them out.'
            )
        if "grammar" in given or "grammar_path" in given:  # instead of one's own, whichever it is
            changes = {"grammar": None, "grammar_path": None} | changes
        changes["stop"] = [*stop_strings(self.stop), *stop_strings(stop)]
        caller = BaseModel.__copy__(self)
        caller.__dict__.update(changes)  # the request checks them
        return caller

    def _request(
        self, prompt: str, stop: Any = None, given: Mapping[str, Any] | None = None
    ) -> Request:
        """What the engine is asked; a call's parameters go before the fields."""
        if stop or given:
            return self._for_call(stop, given or {})._request(prompt)
        values = {name: getattr(self, name) for name in (*SAMPLING, "last_n_tokens_size")}
        values["last_n"] = values.pop("last_n_tokens_size")
        defaults = Request.__dataclass_fields__
        for name, value in values.items():
            if value is None and name != "max_tokens":
                values[name] = defaults[name].default
        bias = values["logit_bias"] or {}
        if not isinstance(bias, Mapping):
            raise TypeError(f"logit_bias={bias!r} must be a dict from tokens to numbers.")
        values["logit_bias"] = tuple(bias.items())
        values["speculate"] = bool(self.speculate)
        return Request(
            prompt=prompt, stop=stop_strings(self.stop), grammar=self._own_grammar(), **values
        )

    def _own_grammar(self) -> Grammar | None:
        """The grammar of the fields, read and checked again only when one of them has changed."""
        grammar, path, checked = self._checked
        if grammar is not self.grammar or path != self.grammar_path:
            checked = _as_grammar(self.grammar, self.grammar_path)
            self._checked = (self.grammar, self.grammar_path, checked)
        return checked


def _as_grammar(grammar: Any, path: str | Path | None) -> Grammar | None:
    """One checked grammar from what a field or a call may hold."""
    if grammar is not None and path is not None:
        raise ValueError(f"Give grammar or grammar_path, not both (grammar_path={str(path)!r}).")
    if path is not None:
        return Grammar.from_file(check_path("grammar_path", path))
    if grammar is None or isinstance(grammar, Grammar):
        return grammar
    if isinstance(grammar, str):
        return Grammar.from_string(grammar)
    if isinstance(grammar, os.PathLike):
        return Grammar.from_file(check_path("grammar", grammar))
    source = getattr(grammar, "_grammar", None)  # llama_cpp.LlamaGrammar keeps its text there
    if isinstance(source, str):
        return Grammar.from_string(source)
    raise TypeError(
        f"grammar={grammar!r} must be a helpers.Grammar, GBNF as a string, or a path. "
        "For a schema: Grammar.from_json_schema(schema), Grammar.from_pydantic(Model)."
    )
