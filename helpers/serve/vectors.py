"""/v1/embeddings and /tokenize: texts as vectors, and as tokens."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from helpers.checks import check_switch
from helpers.engine import Engine
from helpers.engine.embedder import BATCH_TOKENS, DEVICE_BATCH_TOKENS
from helpers.llm import LlamaCppEmbeddings
from helpers.llm.embeddings import unit
from helpers.models import inspect_model
from helpers.remote.codec import prompt_from_json
from helpers.serve.problems import Problem, refuse_unknown

FIELDS = (
    "input",
    "model",
    "encoding_format",
    "dimensions",
    "user",
    "normalize",
    "kind",
    "truncate",
)
_MOST_TEXTS = 2048
_MOST_TOKENS = 300_000


def read_texts(body: Mapping[str, Any]) -> list[str | list[int]]:
    """The texts of a body, each as a text or as tokens.

    Raises:
        Problem: They are of no such kind, or too many.
    """
    refuse_unknown(body, FIELDS)
    given = body.get("input")
    texts: list[Any] = given if isinstance(given, list) else [given]
    if texts and all(type(one) is int for one in texts):
        texts = [texts]
    wrong = next((one for one in texts if not isinstance(one, str) and not _is_tokens(one)), None)
    if wrong is not None or not texts or given is None:
        raise _bad(
            "input", "input must be a text, a list of texts, or tokens as a list of numbers."
        )
    if len(texts) > _MOST_TEXTS or sum(map(len, texts)) > 8 * _MOST_TOKENS:
        raise _bad("input", f"input may have {_MOST_TEXTS:,} texts, together a megabyte or two.")
    if body.get("encoding_format", "float") not in ("float", "base64"):
        raise _bad("encoding_format", 'encoding_format must be "float" or "base64".')
    if body.get("kind") not in (None, "query", "document"):
        raise _bad("kind", 'kind must be "query", "document" or left out.')
    return texts


def embed(
    model: LlamaCppEmbeddings,
    body: Mapping[str, Any],
    texts: Sequence[str | list[int]],
    alive: Callable[[], bool],
) -> tuple[list[dict[str, Any]], int]:
    """The vectors of texts in the protocol's form, and how many tokens were read.

    Args:
        model: The model.
        body: The body, for how they are wanted.
        texts: Its texts.
        alive: Is asked after each of them whether somebody still waits.

    Raises:
        ContextOverflowError: A text is too long.
        Problem: Other dimensions are wanted than the model's, or a token is none of its.
    """
    normalize = check_switch("normalize", body.get("normalize", True))
    model = model.model_copy(
        update={"truncate": check_switch("truncate", body.get("truncate", False))}
    )
    query, document = model.prefixes
    prefix = {"query": query, "document": document}.get(str(body.get("kind")), "")
    tokens = [_of(model, text, prefix, number) for number, text in enumerate(texts)]
    found: dict[int, Any] = {}
    room = DEVICE_BATCH_TOKENS if model.load_report.n_gpu_layers else BATCH_TOKENS
    for number, vector in model._engine.embed(tokens, room):
        found[number] = unit(vector) if normalize else vector
        if not alive():
            raise TimeoutError
    width = len(found[0])
    if body.get("dimensions", width) != width:
        raise _bad("dimensions", f"This model's vectors have {width} dimensions, and no others.")
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": number, "embedding": _written(found[number], as_base64)}
        for number in range(len(texts))
    ]
    return data, sum(map(len, tokens))


def _of(model: LlamaCppEmbeddings, text: str | list[int], prefix: str, number: int) -> list[int]:
    if isinstance(text, str):
        return model._tokens(text, prefix, number)
    n_vocab = inspect_model(model.model_path, check=False).n_vocab
    if not text or max(text) >= n_vocab:
        raise _bad("input", f"input: text {number} must have tokens of 0 to {n_vocab - 1}.")
    return model._fitting(text, "", number)


def _written(vector: Any, as_base64: bool) -> Any:
    if as_base64:
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")
    return [float(one) for one in vector]


def tokenize(engine: Engine, body: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens of a prompt, or of several.

    Raises:
        Problem: There is none.
        ValueError: It is no prompt.
    """
    refuse_unknown(body, ("prompt", "prompt_parts", "prompts", "model"))
    if "prompts" not in body:
        return {"tokens": _tokens(engine, body)}
    prompts = body["prompts"]
    if not isinstance(prompts, list) or len(prompts) > _MOST_TEXTS:
        raise _bad("prompts", f"prompts must be a list of at most {_MOST_TEXTS:,}.")
    return {
        "tokens": [
            _tokens(engine, one if isinstance(one, Mapping) else {"prompt": one}) for one in prompts
        ]
    }


def _tokens(engine: Engine, body: Mapping[str, Any]) -> list[int]:
    prompt = prompt_from_json(body)
    return engine.tokenize(prompt) if isinstance(prompt, str) else list(prompt)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**31 for one in value)


def _bad(param: str, message: str) -> Problem:
    return Problem(400, "invalid_value", message, param=param)
