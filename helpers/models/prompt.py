"""From messages to the text that a model was trained on, through its own chat template."""

from __future__ import annotations

import os
from typing import Any

from helpers.checks import check_seconds
from helpers.errors import ModelFileError
from helpers.models.default import default_model
from helpers.models.formats import PRE_TOKENIZERS_WITH_BOS
from helpers.models.header import Header
from helpers.models.info import ModelInfo, inspect_model
from helpers.models.messages import plain_messages
from helpers.models.render import render
from helpers.prompt import Prompt

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For base models, whose files have no template. Transcripts in this form are on many web pages."""


def format_prompt(
    messages: Any,
    model: str | os.PathLike[str] | ModelInfo | Any = None,
    add_generation_prompt: bool = True,
    *,
    chat_template: str | None = None,
    tools: list[dict[str, Any]] | None = None,
    timeout: float = 5.0,
    **variables: Any,
) -> Prompt:
    """Write messages in the form that the model was trained on, with its own chat template.

    The template is rendered in a sandbox in a child process (the first call takes about 0.2 s, the
    next about 1 ms), because it is a program that came with the file.

    The result has no BOS token at its beginning where the tokenizer adds one itself, as
    `LlamaCpp` and llama.cpp do by the file's settings: pass it on as it is, and the model sees
    exactly one. Control tokens such as `<|im_start|>` are written as text, and `LlamaCpp` reads
    them as tokens where the template wrote them. Text of users, tools and documents cannot become
    one: the result is a `Prompt`, a `str` that knows which parts the template wrote, and in all
    others `<|im_start|>` is read as any other characters are. `prompt + text` keeps that, and the
    text counts as supplied; an f-string loses it, and all of its text is read as the template's.

    Args:
        messages: A list of `{"role": …, "content": …}`, of `(role, content)`, or of LangChain
            messages; a LangChain prompt value; or a text, which is one message of the user.
        model: Path of a GGUF file, a `ModelInfo`, or an object with a `model_path` such as
            `LlamaCpp`. None is `default_model()`.
        add_generation_prompt: End where the model's answer begins.
        chat_template: Jinja source to use in place of the file's own, such as `PLAIN_TEMPLATE`
            ("User: …", "Assistant: …") for a base model, whose file has none.
        tools: Tools in OpenAI's JSON form, for templates that know them.
        timeout: Longest time that the template may take, 0 to 86,400 seconds (a day).
        **variables: Further variables of the template, such as `enable_thinking=False`.

    Returns:
        The prompt.

    Raises:
        ModelFileError: The file has no template, or its template is invalid, refuses the messages
            (their order, a role), or does not end in time.
        TypeError: The messages are of no known form, or `timeout` is no number.
        ValueError: `timeout` is out of range.

    Example:
        >>> from helpers import format_prompt
        >>> print(format_prompt([("system", "Be brief."), ("user", "Hi!")]))
        <|im_start|>system
        Be brief.<|im_end|>
        <|im_start|>user
        Hi!<|im_end|>
        <|im_start|>assistant
        <BLANKLINE>
    """
    timeout = check_seconds("timeout", timeout)
    given = {"add_generation_prompt": add_generation_prompt, **variables}
    if tools:
        given["tools"] = tools
    return render_prompt(
        _info(model), plain_messages(messages), given, chat_template=chat_template, timeout=timeout
    )


def render_prompt(
    info: ModelInfo,
    messages: list[dict[str, Any]],
    variables: dict[str, Any],
    *,
    chat_template: str | None = None,
    timeout: float = 5.0,
) -> Prompt:
    """`format_prompt` of messages that are in the form of templates already.

    Args:
        info: The model's file.
        messages: The messages, as the template is to see them.
        variables: All other variables of the template, `add_generation_prompt` and `tools` too.
        chat_template: As in `format_prompt`.
        timeout: As in `format_prompt`.

    Raises:
        ModelFileError: As `format_prompt` does.
    """
    header = info.metadata
    template = chat_template or template_of(header, bool(variables.get("tools"))) or ""
    if not template:
        raise ModelFileError(
            f"{info.path} has no chat template (tokenizer.chat_template): it may be a base model, "
            "which continues text and does not chat. Write the prompt by hand, or pass "
            "chat_template=PLAIN_TEMPLATE (helpers has it) or one of your own"
        )
    bos = token_text(header, "bos")
    own = {"bos_token": bos, "eos_token": token_text(header, "eos")}
    own = {name: text for name, text in own.items() if name not in variables}
    values = {**variables, "messages": messages}
    prompt = render(template, values, info.path.name, timeout, own=own)
    if bos and adds_bos(header) and prompt.parts and prompt.parts[0][1]:
        (first, _), *rest = prompt.parts
        return Prompt([(first.removeprefix(bos), True), *rest])
    return prompt


def adds_bos(header: Header) -> bool:
    """Say whether llama.cpp begins every tokenized text of this model with its BOS token."""
    kind = header.get("tokenizer.ggml.model")
    pre = header.get("tokenizer.ggml.pre", "")
    if kind == "gemma4" or pre == "gemma4":
        return True  # llama.cpp overrides these files
    by_default = kind in ("llama", "bert") or (kind == "gpt2" and pre in PRE_TOKENIZERS_WITH_BOS)
    return bool(header.get("tokenizer.ggml.add_bos_token", by_default))


def _info(model: Any) -> ModelInfo:
    if isinstance(model, ModelInfo):
        return model
    if model is None:
        model = default_model()
    return inspect_model(getattr(model, "model_path", model))


def template_of(header: Header, with_tools: bool) -> str | None:
    """The chat template in a file's header; one for tools goes before, where tools are given."""
    if with_tools and "tokenizer.chat_template.tool_use" in header:
        return str(header["tokenizer.chat_template.tool_use"])
    template = header.get("tokenizer.chat_template")
    return template if isinstance(template, str) else None


def token_text(header: Header, name: str) -> str:
    """The text of the "bos" or "eos" token; empty where there is none."""
    # Vocabularies of the kind "llama" have these two at fixed places if nothing else is said.
    default = {"bos": 1, "eos": 2}[name] if header.get("tokenizer.ggml.model") == "llama" else -1
    number = header.get(f"tokenizer.ggml.{name}_token_id", default)
    try:
        return str(header.item("tokenizer.ggml.tokens", number))
    except (IndexError, KeyError, TypeError):  # a number that is none, tokens that are none
        return ""
