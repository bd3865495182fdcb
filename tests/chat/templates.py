"""The chat templates of the pinned source, and how each is known to write replies.

The texts here were written down from the templates themselves: two calls, `add(a="x", b=1, c=True)`
and `stop()`, as each writes them; one call where a template takes one only.
"""

# ruff: noqa: RUF001 (the bars and spaces of DeepSeek's tokens)

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.chat.format import Reasoning
from helpers.chat.write import Call
from helpers.install.configure import pinned_source

SOURCE = pinned_source()
FOLDER = (SOURCE or Path("missing")) / "vendor" / "llama.cpp" / "models" / "templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
needs_templates = pytest.mark.skipif(
    not NAMES, reason="the pinned source is not here: a source build (.ci/run) fetches it"
)
CALLS = (
    Call("add", {"a": "x", "b": 1, "c": True}, "idaaaaaa1"),
    Call("stop", {}, "idbbbbbb2"),
)


def template(name: str) -> str:
    """One template's source."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


_ARGS = '{"a": "x", "b": 1, "c": true}'
_HERMES = (
    f'<tool_call>\n{{"name": "add", "arguments": {_ARGS}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
)
_ARRAY = f'[{{"name": "add", "arguments": {_ARGS}}}, {{"name": "stop", "arguments": {{}}}}]'
_ARRAY_WITH_IDS = (
    f'[{{"name": "add", "arguments": {_ARGS}, "id": "idaaaaaa1"}}, '
    '{"name": "stop", "arguments": {}, "id": "idbbbbbb2"}]'
)
_COHERE = (
    f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "add", "parameters": {_ARGS}}},\n'
    '    {"tool_call_id": "1", "tool_name": "stop", "parameters": {}}\n]<|END_ACTION|>'
)
_GLM_LINES = (
    "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n"
    "<arg_key>b</arg_key>\n<arg_value>1</arg_value>\n"
    "<arg_key>c</arg_key>\n<arg_value>true</arg_value>\n</tool_call>\n"
    "<tool_call>stop\n</tool_call>"
)
_GLM = (
    "<tool_call>add<arg_key>a</arg_key><arg_value>x</arg_value><arg_key>b</arg_key>"
    "<arg_value>1</arg_value><arg_key>c</arg_key><arg_value>true</arg_value></tool_call>"
    "<tool_call>stop</tool_call>"
)
_KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>"
    f"{_ARGS}<|tool_call_end|><|tool_call_begin|>functions.stop:1<|tool_call_argument_begin|>"
    "{}<|tool_call_end|><|tool_calls_section_end|>"
)
_QWEN_CODER = (
    "<tool_call>\n<function=add>\n<parameter=a>\nx\n</parameter>\n<parameter=b>\n1\n</parameter>\n"
    "<parameter=c>\nTrue\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=stop>\n</function>\n</tool_call>"
)
_DEEPSEEK_R1 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n"
    f"```json\n{_ARGS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n"
    "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
_DEEPSEEK_V4 = (
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="add">\n'
    '<｜DSML｜parameter name="a" string="true">x</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="b" string="false">1</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="c" string="false">true</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    '<｜DSML｜invoke name="stop">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
_GEMMA_4 = (
    '<|tool_call>call:add{a:<|"|>x<|"|>,b:1,c:true}<tool_call|><|tool_call>call:stop{}<tool_call|>'
)
_LLAMA_3 = f'{{"name": "add", "parameters": {_ARGS}}}'
_LFM = '<|tool_call_start|>[add(a="x", b=1, c=True), stop()]<|tool_call_end|>'
_MISTRAL = f"[TOOL_CALLS]add[ARGS]{_ARGS}[TOOL_CALLS]stop[ARGS]{{}}"

# What each format writes, how it begins (`marker`), and the templates that write so.
DERIVED: tuple[tuple[str, str, str], ...] = (
    (
        _HERMES,
        "<tool_call>",
        """Bielik-11B-v3.0-Instruct MiMo-VL NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use
        NousResearch-Hermes-3-Llama-3.1-8B-tool_use Qwen-QwQ-32B Qwen-Qwen2.5-7B-Instruct
        Qwen-Qwen3-0.6B ibm-granite-granite-4.0 ibm-granite-granite-4.1""",
    ),
    (_HERMES.replace("</tool_call>\n", "</tool_call>"), "<tool_call>", "Reka-Edge"),
    (
        f'<|tools_prefix|>[{{"add": {_ARGS}}}, {{"stop": {{}}}}]<|tools_suffix|>',
        "<|tools_prefix|>",
        "Apertus-8B-Instruct",
    ),
    (
        f"<tool_calls>{_ARRAY_WITH_IDS}</tool_calls>",
        "<tool_calls>",
        "Apriel-1.6-15b-Thinker-fixed unsloth-Apriel-1.5",
    ),
    (f"<TOOLCALL>{_ARRAY}</TOOLCALL>", "<TOOLCALL>", "NVIDIA-Nemotron-Nano-v2"),
    (f"[TOOL_CALLS]{_ARRAY_WITH_IDS}", "[TOOL_CALLS]", "mistralai-Mistral-Nemo-Instruct-2407"),
    (f" functools{_ARRAY}", " functools[", "fireworks-ai-llama-3-firefunction-v2"),
    (
        f'<tool_calls>\n{{"name": "add", "arguments": {_ARGS}}}\n'
        '{"name": "stop", "arguments": {}}\n</tool_calls>',
        "<tool_calls>",
        "MiniMax-M1",
    ),
    (
        _COHERE,
        "<|START_ACTION|>",
        "Cohere2MoE CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    ),
    (
        'Action:\n```json\n[\n    {\n        "tool_name": "add",\n        "parameters": {\n'
        '            "a": "x",\n            "b": 1,\n            "c": true\n        }\n    },\n'
        '    {\n        "tool_name": "stop",\n        "parameters": {}\n    }\n]```',
        "Action:\n```json\n[",
        "CohereForAI-c4ai-command-r-plus-tool_use",
    ),
    (
        f'<|message_sep|>\n\nfunction call<|role_sep|>\n{{"name": "add", "arguments": {_ARGS}}}',
        "<|message_sep|>\n\nfunction call<|role_sep|>",
        "GigaChat3-10B-A1.8B",
    ),
    (
        f'<|function_call|>{{"name": "add", "arguments": {_ARGS}}}',
        "<|function_call|>",
        "GigaChat3.1-10B-A1.8B",
    ),
    (
        _LLAMA_3,
        "",
        """meta-llama-Llama-3.1-8B-Instruct meta-llama-Llama-3.2-3B-Instruct
        meta-llama-Llama-3.3-70B-Instruct""",
    ),
    (
        _KIMI,
        "<|tool_calls_section_begin|>",
        "Kimi-K2-Instruct Kimi-K2-Thinking moonshotai-Kimi-K2",
    ),
    (
        '<|open|>tools<|sep|><|open|>call tool="add" index="1"<|sep|>'
        f'<|open|>json type="object"<|sep|>{_ARGS}<|close|>json<|sep|><|close|>call<|sep|>'
        '<|open|>call tool="stop" index="2"<|sep|>'
        '<|open|>json type="object"<|sep|>{}<|close|>json<|sep|><|close|>call<|sep|>'
        "<|close|>tools<|sep|>",
        "<|open|>tools<|sep|>",
        "Kimi-K3",
    ),
    (
        _MISTRAL,
        "[TOOL_CALLS]",
        "mistralai-Ministral-3-14B-Reasoning-2512 unsloth-mistral-Devstral-Small-2507",
    ),
    (
        f"[TOOL_CALLS]add[CALL_ID]idaaaaaa1[ARGS]{_ARGS}[TOOL_CALLS]stop[CALL_ID]idbbbbbb2[ARGS]{{}}",
        "[TOOL_CALLS]",
        "Mistral-Small-3.2-24B-Instruct-2506",
    ),
    (
        f"<function=add>{_ARGS}</function><function=stop>{{}}</function>",
        "<function=",
        "meetkai-functionary-medium-v3.1",
    ),
    (f">>>add\n{_ARGS}>>>stop\n{{}}", ">>>", "meetkai-functionary-medium-v3.2"),
    (
        f"<|tool_calls|><|tool_call:begin|>idaaaaaa1<|tool_call:name|>add<|tool_call:args|>{_ARGS}"
        "<|tool_call:end|><|tool_call:begin|>idbbbbbb2<|tool_call:name|>stop<|tool_call:args|>{}"
        "<|tool_call:end|>",
        "<|tool_calls|>",
        "upstage-Solar-Open-100B",
    ),
    (
        _DEEPSEEK_R1,
        "<｜tool▁calls▁begin｜>",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B llama-cpp-deepseek-r1",
    ),
    (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{_ARGS}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "deepseek-ai-DeepSeek-V3.1",
    ),
    (
        _DEEPSEEK_V4.replace("tool_calls", "function_calls").replace("\n\n", "\n"),
        "<｜DSML｜function_calls>",
        "deepseek-ai-DeepSeek-V3.2",
    ),
    (
        _DEEPSEEK_V4,
        "<｜DSML｜tool_calls>",
        "deepseek-ai-DeepSeek-V4 deepseek-ai-DeepSeek-V4-Flash-0731",
    ),
    (
        _GLM_LINES,
        "<tool_call>",
        "GLM-4.6 poolside-Laguna-XS-2.1 poolside-Laguna-XS.2",
    ),
    (
        _GLM_LINES.replace("</arg_value>\n<arg_key>", "</arg_value><arg_key>").replace(
            "stop\n", "stop\n\n"
        ),
        "<tool_call>",
        "inclusionai-ling-3.0-flash",
    ),
    (_GLM, "<tool_call>", "GLM-4.7-Flash Spark2.5 poolside-Laguna-S-2.1"),
    (
        "<tool_calls:opensource>\n<tool_call:opensource>add<tool_sep:opensource>\n"
        "<arg_key:opensource>a</arg_key:opensource>\n"
        "<arg_value:opensource>x</arg_value:opensource>\n"
        "<arg_key:opensource>b</arg_key:opensource>\n"
        "<arg_value:opensource>1</arg_value:opensource>\n"
        "<arg_key:opensource>c</arg_key:opensource>\n"
        "<arg_value:opensource>true</arg_value:opensource>\n</tool_call:opensource>\n"
        "<tool_call:opensource>stop<tool_sep:opensource>\n</tool_call:opensource>\n"
        "</tool_calls:opensource>",
        "<tool_calls:opensource>",
        "tencent-Hy3",
    ),
    (
        _QWEN_CODER,
        "<tool_call>",
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 Qwen3-Coder Qwen3.5-4B",
    ),
    (
        _QWEN_CODER.replace("</tool_call>\n", "</tool_call>"),
        "<tool_call>",
        "StepFun3.5-Flash",
    ),
    (
        "<seed:tool_call>\n<function=add>\n<parameter=a>x</parameter>\n<parameter=b>1</parameter>\n"
        "<parameter=c>True</parameter>\n</function>\n</seed:tool_call>\n"
        "<seed:tool_call>\n<function=stop>\n</function>\n</seed:tool_call>",
        "<seed:tool_call>",
        "ByteDance-Seed-OSS",
    ),
    (
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">x</parameter>\n'
        '<parameter name="b">1</parameter>\n<parameter name="c">true</parameter>\n</invoke>\n'
        '<invoke name="stop">\n</invoke>\n</minimax:tool_call>',
        "<minimax:tool_call>",
        "MiniMax-M2",
    ),
    (
        ' to=add<|message|><atem:function_calls>\n<atem:invoke name="add">\n'
        '<atem:parameter name="a">x</atem:parameter>\n'
        '<atem:parameter name="b">1</atem:parameter>\n'
        '<atem:parameter name="c">true</atem:parameter>\n</atem:invoke>\n</atem:function_calls>'
        "<|eom|><|start|>assistant to=stop<|message|><atem:function_calls>\n"
        '<atem:invoke name="stop">\n</atem:invoke>\n</atem:function_calls>',
        "",
        "muse-glimmer",
    ),
    (
        '<function name="add"><param name="a">x</param><param name="b">1</param>'
        '<param name="c">True</param></function>\n<function name="stop"></function>',
        '<function name="',
        "openbmb-MiniCPM5-1B",
    ),
    (_GEMMA_4, "<|tool_call>", "google-gemma-4-31B-it google-gemma-4-31B-it-interleaved"),
)
ROWS: tuple[tuple[str, str, str], ...] = (
    (f"<|tool_call|>{_ARRAY}", "<|tool_call|>", "ibm-granite-granite-3.3-2B-Instruct"),
    (_LFM, "<|tool_call_start|>", "LFM2-8B-A1B LFM2.5-8B-A1B LFM2.5-Instruct"),
    (
        f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{_ARGS}",
        "<|channel|>commentary to=functions.",
        "openai-gpt-oss-120b",
    ),
    (_DEEPSEEK_R1, "<｜tool▁calls▁begin｜>", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"),
)
NO_PLACE_FOR_TOOLS = [
    "HuggingFaceTB-SmolLM3-3B",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
]
# MiniMax-M3 names each argument again behind its value, and writes arrays and objects as elements.
REFUSED = ["MiniMax-M3"]

# Reasoning other than none, and the templates that have it.
REASONING: tuple[tuple[Reasoning, str], ...] = (
    (
        Reasoning("<think>", "</think>"),
        """Bielik-11B-v3.0-Instruct GLM-4.6 GLM-4.7-Flash HuggingFaceTB-SmolLM3-3B Kimi-K2-Thinking
        LFM2.5-8B-A1B LFM2.5-Instruct MiniMax-M2 NVIDIA-Nemotron-3-Nano-30B-A3B-BF16
        NVIDIA-Nemotron-Nano-v2 Qwen-QwQ-32B Qwen-Qwen3-0.6B Qwen3.5-4B Reka-Edge Spark2.5
        StepFun3.5-Flash deepseek-ai-DeepSeek-R1-Distill-Llama-8B
        deepseek-ai-DeepSeek-R1-Distill-Qwen-32B deepseek-ai-DeepSeek-V3.1
        deepseek-ai-DeepSeek-V3.2 deepseek-ai-DeepSeek-V4 deepseek-ai-DeepSeek-V4-Flash-0731
        ibm-granite-granite-3.3-2B-Instruct inclusionai-ling-3.0-flash llama-cpp-deepseek-r1
        llama-cpp-rwkv-world openbmb-MiniCPM5-1B poolside-Laguna-S-2.1 poolside-Laguna-XS-2.1
        poolside-Laguna-XS.2""",
    ),
    (Reasoning("<seed:think>", "</seed:think>"), "ByteDance-Seed-OSS"),
    (Reasoning("<mm:think>", "</mm:think>"), "MiniMax-M3"),
    (Reasoning("<think:opensource>", "</think:opensource>"), "tencent-Hy3"),
    (
        Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
        "Cohere2MoE CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    ),
    (Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>"), "Kimi-K3"),
    (
        Reasoning("<|channel>thought", "<channel|>"),
        "google-gemma-4-31B-it google-gemma-4-31B-it-interleaved",
    ),
    (Reasoning("[THINK]", "[/THINK]"), "mistralai-Ministral-3-14B-Reasoning-2512"),
    (Reasoning("<|inner_prefix|>", "<|inner_suffix|>"), "Apertus-8B-Instruct"),
    (
        Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        "Apriel-1.6-15b-Thinker-fixed unsloth-Apriel-1.5",
    ),
    (Reasoning(" to=self<|message|>", "<|eom|><|start|>assistant"), "muse-glimmer"),
    (
        Reasoning("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        "openai-gpt-oss-120b",
    ),
    (Reasoning("<|think|>", "<|end|><|begin|>assistant"), "upstage-Solar-Open-100B"),
)
# Marks around content, where there are any.
CONTENT: dict[str, tuple[str, str]] = {
    "Cohere2MoE": ("<|START_TEXT|>", "<|END_TEXT|>"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    "Kimi-K3": ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    "meetkai-functionary-medium-v3.2": (">>>all\n", ""),
    "muse-glimmer": (" to=user<|message|>", ""),
    "openai-gpt-oss-120b": ("<|channel|>final<|message|>", ""),
    "upstage-Solar-Open-100B": ("<|content|>", ""),
}
# What switches reasoning on and off, where a variable does.
SWITCHES: tuple[tuple[str, object, object, str], ...] = (
    (
        "enable_thinking",
        True,
        False,
        """Apertus-8B-Instruct Bielik-11B-v3.0-Instruct GLM-4.6 GLM-4.7-Flash
        CohereForAI-c4ai-command-r7b-12-2024-tool_use HuggingFaceTB-SmolLM3-3B
        NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 Qwen-QwQ-32B Qwen-Qwen3-0.6B Qwen3.5-4B Reka-Edge
        Spark2.5 deepseek-ai-DeepSeek-R1-Distill-Qwen-32B deepseek-ai-DeepSeek-V3.1
        deepseek-ai-DeepSeek-V3.2 deepseek-ai-DeepSeek-V4 deepseek-ai-DeepSeek-V4-Flash-0731
        google-gemma-4-31B-it google-gemma-4-31B-it-interleaved inclusionai-ling-3.0-flash
        llama-cpp-rwkv-world openbmb-MiniCPM5-1B poolside-Laguna-S-2.1 poolside-Laguna-XS-2.1
        poolside-Laguna-XS.2""",
    ),
    ("thinking", True, False, "Kimi-K3 ibm-granite-granite-3.3-2B-Instruct"),
    ("reasoning", True, False, "Cohere2MoE"),
    ("thinking_mode", "enabled", "disabled", "MiniMax-M3"),
    ("reasoning_effort", "high", "no_think", "tencent-Hy3"),
    ("thinking_budget", -1, 0, "ByteDance-Seed-OSS"),
)
# Templates that do not take what nearly all others take.
NO_SYSTEM = ["google-gemma-2-2b-it"]
NO_RESULTS = ["google-gemma-2-2b-it", "llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct"]
NO_LIST_OF_TOOLS = [
    *NO_PLACE_FOR_TOOLS,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
]
NO_CALLS = [
    *NO_PLACE_FOR_TOOLS,
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "ibm-granite-granite-3.3-2B-Instruct",
]
# Templates that want arguments as JSON text.
TEXT_ARGUMENTS = [
    "Kimi-K3",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "meetkai-functionary-medium-v3.2",
]
