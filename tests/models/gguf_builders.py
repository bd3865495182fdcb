"""Small GGUF files for the tests: a tiny llama that loads and generates, and bare headers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, token types and merges of a byte-pair vocabulary that can write any text."""
    # GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 onwards.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for number, byte in enumerate(b for b in range(256) if b not in letters):
        letters[byte] = chr(256 + number)
    tokens = ["<|endoftext|>", "<|start|>", "<|end|>", *(letters[b] for b in range(256))]
    merges = ["h e", "l l", "he ll", "hell o", "t h", "th e", "Ġ w"]
    tokens += [merge.replace(" ", "") for merge in merges]
    return tokens, [3, 3, 3] + [1] * (len(tokens) - 3), merges


def add_bytes(writer: gguf.GGUFWriter) -> int:
    tokens, types, merges = byte_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    return len(tokens)


def copy_vocabulary(writer: gguf.GGUFWriter, path: Path) -> int:
    """Copy all keys of the tokenizer from another file; return the number of its tokens."""
    fields = gguf.GGUFReader(path).fields
    for name, field in fields.items():
        if name.startswith("tokenizer.") and name != "tokenizer.chat_template":
            writer.add_key_value(name, field.contents(), *field.types[:2])
    return len(fields["tokenizer.ggml.tokens"].data)


def tiny_llama(
    path: Path,
    *,
    architecture: str = "llama",
    norms: dict[str, int] | None = None,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 96,
    experts: int = 0,
    context: int = 256,
    chat_template: str = CHAT_TEMPLATE,
    vocabulary: Path | None = None,
    edit: Callable[[gguf.GGUFWriter], object] | None = None,
    **options: Any,
) -> Path:
    """Write a llama with random weights (about 0.4 MB) that llama.cpp loads and runs.

    An architecture that is a llama with further `norms` (name: width) in each block does as well.
    With `experts`, it is a mixture of which each token uses two. Its tokens are bytes, or those of
    another file's `vocabulary`.
    """
    writer = gguf.GGUFWriter(path, architecture, **options)
    writer.add_name("Tiny")
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    n_tokens = copy_vocabulary(writer, vocabulary) if vocabulary else add_bytes(writer)
    writer.add_chat_template(chat_template)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    if edit is not None:
        edit(writer)
    random = np.random.default_rng(7)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.05, shape).astype(np.float32))

    add("token_embd.weight", n_tokens, width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    kv_width = width // heads * kv_heads
    for layer in range(layers):
        block = f"blk.{layer}"
        for norm, size in {"attn_norm": width, "ffn_norm": width, **(norms or {})}.items():
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(size, np.float32))
        add(f"{block}.attn_q.weight", width, width)
        add(f"{block}.attn_k.weight", kv_width, width)
        add(f"{block}.attn_v.weight", kv_width, width)
        add(f"{block}.attn_output.weight", width, width)
        stack, kind = ((experts,), "_exps") if experts else ((), "")
        add(f"{block}.ffn_gate{kind}.weight", *stack, feed_forward, width)
        add(f"{block}.ffn_up{kind}.weight", *stack, feed_forward, width)
        add(f"{block}.ffn_down{kind}.weight", *stack, width, feed_forward)
        if experts:
            add(f"{block}.ffn_gate_inp.weight", experts, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_bert(
    path: Path,
    *,
    vocabulary: Path,
    layers: int = 2,
    width: int = 64,
    context: int = 128,
    pooling: gguf.PoolingType = gguf.PoolingType.MEAN,
    name: str = "Tiny Bert",
    template: str = "",
    token_types: int = 2,
) -> Path:
    """Write a BERT with random weights: an encoder, which makes vectors, or scores of texts.

    Args:
        path: The file.
        vocabulary: A file with a vocabulary of word pieces.
        layers: Its blocks.
        width: Numbers in a vector.
        context: Positions that it knows.
        pooling: `gguf.PoolingType.RANK` writes a reranker.
        name: The model's name.
        template: How a reranker wants to see question and text; none where it is empty.
        token_types: Rows of the table of token types.
    """
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(name)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_file_type(0)
    n_tokens = copy_vocabulary(writer, vocabulary)
    if template:
        writer.add_string("tokenizer.chat_template.rerank", template)
    random = np.random.default_rng(7)

    def add(tensor: str, *shape: int, bias: bool = True) -> None:
        weight = random.normal(0, 0.2, shape) if len(shape) == 2 else np.ones(shape)
        writer.add_tensor(f"{tensor}.weight", weight.astype(np.float32))
        if bias:
            writer.add_tensor(f"{tensor}.bias", random.normal(0, 0.1, shape[0]).astype(np.float32))

    add("token_embd", n_tokens, width, bias=False)
    add("position_embd", context, width, bias=False)
    add("token_types", token_types, width, bias=False)
    add("token_embd_norm", width)
    for layer in range(layers):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{part}", width, width)
        add(f"{block}.attn_output_norm", width)
        add(f"{block}.ffn_up", 2 * width, width)
        add(f"{block}.ffn_down", width, 2 * width)
        add(f"{block}.layer_output_norm", width)
    if pooling == gguf.PoolingType.RANK:
        add("cls", width, width)
        add("cls.output", 1, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_mamba(path: Path, *, layers: int = 2, width: int = 64) -> Path:
    """Write a Mamba with random weights: its memory is one state, which cannot be cut off."""
    tokens, types, merges = byte_vocabulary()
    inner, state, kernel, rank = 2 * width, 16, 4, 4
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_name("Tiny Mamba")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(7)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.05, shape).astype(np.float32))

    add("token_embd.weight", len(tokens), width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(width, np.float32))
        add(f"{block}.ssm_in.weight", 2 * inner, width)
        add(f"{block}.ssm_conv1d.weight", inner, kernel)
        add(f"{block}.ssm_conv1d.bias", inner)
        add(f"{block}.ssm_x.weight", rank + 2 * state, inner)
        add(f"{block}.ssm_dt.weight", inner, rank)
        add(f"{block}.ssm_dt.bias", inner)
        writer.add_tensor(f"{block}.ssm_a", -np.ones((inner, state), np.float32))
        writer.add_tensor(f"{block}.ssm_d", np.ones(inner, np.float32))
        add(f"{block}.ssm_out.weight", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sparse_model(
    path: Path,
    architecture: str,
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    feed_forward: int,
    tokens: int,
    type_id: int,
    output_type_id: int,
    file_type: int = 0,
    experts: int = 0,
    experts_used: int = 0,
) -> Path:
    """Write a header of any size of model, with a hole where its weights would be."""
    draft = Draft(tiny_llama(path, layers=1).read_bytes())
    for entry in draft.keys:
        entry[0] = entry[0].replace(b"llama.", architecture.encode() + b".")
    draft.set_text("general.architecture", architecture)
    head = width // heads
    numbers = {
        "block_count": layers,
        "embedding_length": width,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "rope.dimension_count": head,
    }
    if experts:
        numbers |= {"expert_count": experts, "expert_used_count": experts_used}
    for name, value in numbers.items():
        draft.set(f"{architecture}.{name}", "I", 4, value)
    draft.set("general.file_type", "I", 4, file_type)
    words = [b"<|endoftext|>", b"<|start|>", b"<|end|>", *(b"t%d" % n for n in range(tokens - 3))]
    raw = b"".join(struct.pack("<Q", len(word)) + word for word in words)
    draft.key("tokenizer.ggml.tokens")[2] = struct.pack("<IQ", 8, tokens) + raw
    draft.set_array("tokenizer.ggml.token_type", "i", 5, [3, 3, 3] + [1] * (tokens - 3))
    norm, stack = [[width], 0], [experts] if experts else []
    kind = "_exps" if experts else ""
    block = {
        "attn_norm": norm,
        "ffn_norm": norm,
        "attn_q": [[width, width], type_id],
        "attn_k": [[width, head * kv_heads], type_id],
        "attn_v": [[width, head * kv_heads], type_id],
        "attn_output": [[width, width], type_id],
        f"ffn_gate{kind}": [[width, feed_forward, *stack], type_id],
        f"ffn_up{kind}": [[width, feed_forward, *stack], type_id],
        f"ffn_down{kind}": [[feed_forward, width, *stack], type_id],
    }
    if experts:
        block["ffn_gate_inp"] = [[width, experts], 0]
    draft.tensors = [
        [b"token_embd.weight", [width, tokens], type_id, 0],
        [b"output_norm.weight", [width], 0, 0],
        [b"output.weight", [width, tokens], output_type_id, 0],
    ]
    for layer in range(layers):
        for name, (shape, stored) in block.items():
            draft.tensors.append([f"blk.{layer}.{name}.weight".encode(), list(shape), stored, 0])
    draft.place_tensors()
    return draft.write(path)


class Draft:
    """A GGUF header taken apart, to be changed and written again without any checks.

    Attributes:
        keys: [name, value type, raw bytes of the value] of each key.
        tensors: [name, shape, type number, offset] of each tensor.
    """

    def __init__(self, data: bytes) -> None:
        self.magic = data[:4]
        self.version, self.n_tensors, self.n_keys = struct.unpack_from("<IQQ", data, 4)
        self._data, self._at = data, 24
        self.keys: list[list[Any]] = []
        self.tensors: list[list[Any]] = []
        self.alignment = 32
        for _ in range(self.n_keys):
            name = self._text()
            kind = self._take("<I")
            start = self._at
            self._skip_value(kind)
            self.keys.append([name, kind, data[start : self._at]])
        for _ in range(self.n_tensors):
            name = self._text()
            shape = [self._take("<Q") for _ in range(self._take("<I"))]
            self.tensors.append([name, shape, self._take("<I"), self._take("<Q")])
        self.data_offset = -(-self._at // 32) * 32
        # None: written as they are; a number: written in place of the true count.
        self.claimed_tensors: int | None = None
        self.claimed_keys: int | None = None
        del self._data

    def _take(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def _text(self) -> bytes:
        length = self._take("<Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _skip_value(self, kind: int) -> None:
        if kind == 8:
            self._text()
        elif kind == 9:
            inner, count = self._take("<I"), self._take("<Q")
            for _ in range(count):
                self._skip_value(inner)
        else:
            self._at += {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4)

    def key(self, name: str) -> list[Any]:
        return next(entry for entry in self.keys if entry[0] == name.encode())

    def set(self, name: str, code: str, kind: int, value: Any) -> None:
        """Give a key another value (`code` as in struct), adding it if it is not there."""
        raw = struct.pack("<" + code, value)
        for entry in self.keys:
            if entry[0] == name.encode():
                entry[1:] = [kind, raw]
                return
        self.keys.append([name.encode(), kind, raw])

    def set_text(self, name: str, text: str) -> None:
        raw = struct.pack("<Q", len(text.encode())) + text.encode()
        for entry in self.keys:
            if entry[0] == name.encode():
                entry[1:] = [8, raw]
                return
        self.keys.append([name.encode(), 8, raw])

    def set_array(self, name: str, code: str, kind: int, values: list[Any]) -> None:
        raw = struct.pack(f"<IQ{len(values)}{code}", kind, len(values), *values)
        self.remove(name)
        self.keys.append([name.encode(), 9, raw])

    def remove(self, name: str) -> None:
        self.keys = [entry for entry in self.keys if entry[0] != name.encode()]

    def place_tensors(self) -> int:
        """Give every tensor its proper offset; return the bytes of the data section."""
        end = 0
        for tensor in self.tensors:
            tensor[3] = end
            end += -(-tensor_bytes(tensor[1], tensor[2]) // self.alignment) * self.alignment
        return end

    def header(self) -> bytes:
        def text(value: bytes) -> bytes:
            return struct.pack("<Q", len(value)) + value

        n_tensors = len(self.tensors) if self.claimed_tensors is None else self.claimed_tensors
        n_keys = len(self.keys) if self.claimed_keys is None else self.claimed_keys
        parts = [self.magic, struct.pack("<IQQ", self.version, n_tensors, n_keys)]
        parts += [text(name) + struct.pack("<I", kind) + raw for name, kind, raw in self.keys]
        for name, shape, kind, offset in self.tensors:
            dims = b"".join(struct.pack("<Q", size % 2**64) for size in shape)
            end = struct.pack("<IQ", kind, offset % 2**64)
            parts.append(text(name) + struct.pack("<I", len(shape)) + dims + end)
        return b"".join(parts)

    def write(self, path: Path, data_bytes: int | None = None) -> Path:
        """Write the header and a hole of the data's size (no disk space is used for it)."""
        head = self.header()
        if data_bytes is None:
            data_bytes = max((t[3] + tensor_bytes(t[1], t[2]) for t in self.tensors), default=0)
        with path.open("wb") as file:
            file.write(head)
            size = -(-len(head) // self.alignment) * self.alignment + data_bytes
            file.truncate(min(size, 2**42))
        return path


def tensor_bytes(shape: list[int], kind: int) -> int:
    try:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except ValueError:
        block, size = 1, 4
    elements = 1
    for dimension in shape:
        elements *= dimension
    return elements // block * size


def split_model(whole_file: Path, folder: Path, count: int = 3) -> list[Path]:
    """Cut a model into parts, as llama.cpp's gguf-split does."""
    whole = Draft(whole_file.read_bytes())
    share = -(-len(whole.tensors) // count)
    paths = []
    for number in range(count):
        part = Draft(whole_file.read_bytes())
        part.tensors = whole.tensors[number * share : (number + 1) * share]
        if number:
            part.keys = []
        part.set("split.no", "H", 2, number)
        part.set("split.count", "H", 2, count)
        part.set("split.tensors.count", "i", 5, len(whole.tensors))
        part.place_tensors()
        paths.append(part.write(folder / f"m-{number + 1:05d}-of-{count:05d}.gguf"))
    return paths
