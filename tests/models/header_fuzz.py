"""Damages GGUF headers in a thousand ways, always the same ones for the same seed."""

from __future__ import annotations

import copy
import random
import struct
from pathlib import Path

from helpers.models.formats import ARCHITECTURES
from tests.models.gguf_builders import Draft, tensor_bytes

EDGES = (0, 1, 2, 3, 7, 31, 63, 64, 255, 512, 513, 4096, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
BIG_EDGES = (*EDGES, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (b"", b"x", b"\xff\xfe\x80", b"llama", b"gpt2", b"linear", b"\0", b"A" * 4000, b"bert")
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"), -0.0)


class Mutant:
    """One damaged header: `head` at the beginning of a file of `size` bytes."""

    def __init__(self, what: str, head: bytes, size: int) -> None:
        self.what, self.head, self.size = what, head, size

    def write(self, path: Path) -> None:
        """Write it into a file that may be there already; the rest is a hole of zeros."""
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(0)
            file.write(self.head)
            file.truncate(max(self.size, len(self.head)))


def mutants(base: bytes, seed: int, count: int, *, vocabulary: bool = True) -> list[Mutant]:
    """Return `count` damaged variants of a file whose header is `base` (data section left out)."""
    rng = random.Random(seed)
    draft = Draft(base)
    kinds = [_bytes, _value, _value, _value, _tensor, _tensor, _structure]
    kinds += [_vocabulary, _heads, _further] if vocabulary else []
    return [rng.choice(kinds)(rng, base, copy.deepcopy(draft)) for _ in range(count)]


def _finish(what: str, draft: Draft, honest: bool = True) -> Mutant:
    """Write a draft at the size that its tensors claim, so that size alone gives nothing away."""
    head = draft.header()
    data = draft.place_tensors() if honest else 0
    head = draft.header() if honest else head
    ends = [t[3] + tensor_bytes(t[1], t[2]) for t in draft.tensors] or [data]
    size = len(head) + 64 + max(data, *ends, 0)
    return Mutant(what, head, min(size, 2**42))


def _bytes(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    head = bytearray(draft.header())
    size = len(head) + 64 + draft.place_tensors()
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(head))
        head[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    action = rng.randrange(6)
    if action == 0:
        at = rng.randrange(len(head))
        del head[at : at + rng.choice((1, 4, 8, 64))]
    elif action == 1:
        at = rng.randrange(len(head))
        head[at:at] = rng.randbytes(rng.choice((1, 4, 8, 64)))
    elif action == 2:
        return Mutant("cut", bytes(head[: rng.randrange(1, len(head))]), 0)
    return Mutant("bytes", bytes(head), size)


def _value(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    entry = rng.choice(draft.keys)
    name, kind, raw = entry
    if rng.random() < 0.15:
        entry[1] = rng.randrange(14)
    elif kind in (4, 5):
        entry[2] = struct.pack("<I", rng.choice(EDGES))
        if rng.random() < 0.3:
            near = int.from_bytes(raw, "little") + rng.choice((-1, 1))
            entry[2] = struct.pack("<I", near % 2**32)
    elif kind == 6:
        entry[2] = struct.pack("<f", rng.choice(FLOATS))
    elif kind == 7:
        entry[2] = bytes([rng.randrange(256)])
    elif kind == 8:
        text = rng.choice(TEXTS)
        entry[2] = struct.pack("<Q", len(text)) + text
    elif kind == 9:
        inner, count = struct.unpack_from("<IQ", raw)
        choice = rng.randrange(3)
        if choice == 0:
            entry[2] = struct.pack("<IQ", rng.randrange(14), count) + raw[12:]
        elif choice == 1:
            entry[2] = struct.pack("<IQ", inner, rng.choice(BIG_EDGES)) + raw[12:]
        else:
            entry[2] = struct.pack("<IQ", inner, 0)
    if rng.random() < 0.1:
        extra = rng.choice(
            (
                ("llama.expert_count", rng.choice(EDGES)),
                ("llama.expert_used_count", rng.choice(EDGES)),
                ("llama.expert_group_count", rng.choice(EDGES)),
                ("llama.attention.key_length", rng.choice(EDGES)),
                ("llama.attention.value_length", rng.choice(EDGES)),
                ("llama.nextn_predict_layers", rng.choice(EDGES)),
                ("llama.attention.sliding_window", rng.choice(EDGES)),
                ("llama.embedding_length_out", rng.choice(EDGES)),
                ("llama.pooling_type", rng.choice(EDGES)),
                ("tokenizer.ggml.eot_token_id", rng.choice(EDGES)),
                ("tokenizer.ggml.token_type_count", rng.choice(EDGES)),
                ("general.alignment", rng.choice(EDGES)),
                ("llama.rope.scaling.original_context_length", rng.choice(EDGES)),
                ("llama.attention.key_length_swa", rng.choice(EDGES)),
                ("llama.interleave_moe_layer_step", rng.choice(EDGES)),
            )
        )
        draft.set(extra[0].replace("llama", _architecture(draft)), "I", 4, extra[1])
    return _finish(f"value of {name!r}", draft)


def _tensor(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    tensor = rng.choice(draft.tensors)
    action = rng.randrange(7)
    honest = rng.random() < 0.7
    if action == 0:
        tensor[1][rng.randrange(len(tensor[1]))] = rng.choice(BIG_EDGES)
    elif action == 1:
        tensor[1] = tensor[1] + [rng.choice((0, 1, 2, 2**31))] * rng.randrange(1, 4)
    elif action == 2:
        tensor[1] = tensor[1][::-1] if len(tensor[1]) > 1 else []
    elif action == 3:
        tensor[2] = rng.randrange(48)
    elif action == 4:
        tensor[3] = rng.choice((tensor[3] + 1, tensor[3] + 32, 0, 2**63, 2**64 - 32))
        honest = False
    elif action == 5:
        tensor[0] = rng.choice((b"", b"x" * 64, b"blk.999.x", b"a\0b", draft.tensors[0][0]))
    else:
        draft.tensors.remove(tensor)
    return _finish(f"tensor {tensor[0]!r}, {action}", draft, honest)


def _heads(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    """Other numbers of heads, with tensors of the shapes that belong to them."""
    arch = _architecture(draft)
    heads, kv_heads, length = rng.randrange(1, 9), rng.randrange(1, 9), rng.choice((1, 2, 3, 8, 20))
    draft.set(f"{arch}.attention.head_count", "I", 4, heads)
    draft.set(f"{arch}.attention.head_count_kv", "I", 4, kv_heads)
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        draft.set(f"{arch}.{name}", "I", 4, length)
    for tensor in draft.tensors:
        kind = tensor[0].split(b".")[-2]
        if kind in (b"attn_q", b"attn_k", b"attn_v"):
            tensor[1][-1] = length * (heads if kind == b"attn_q" else kv_heads)
        elif kind == b"attn_output":
            tensor[1][0] = length * heads
        elif kind in (b"attn_q_norm", b"attn_k_norm"):
            tensor[1] = [length]
    return _finish(f"{heads} heads of {length}, {kv_heads} for keys", draft)


def _further(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    """A tensor that the model may have: factors, scales, biases."""
    name, shape = rng.choice(
        (
            (b"rope_freqs.weight", [8]),
            (b"rope_factors_long.weight", [8]),
            (b"blk.0.attn_q.scale", [1]),
            (b"blk.1.ffn_down.scale", [1]),
            (b"blk.0.attn_k.input_scale", [1]),
            (b"blk.0.attn_q.bias", [64]),
            (b"blk.1.attn_v.bias", [32]),
            (b"blk.1.attn_output.bias", [64]),
            (b"blk.0.ffn_up.bias", [96]),
            (b"blk.0.attn_q_norm.weight", [16]),
            (b"output.weight", [64, 266]),
            (b"cls.output.weight", [64, 1]),
        )
    )
    kind = rng.choice((0, 0, 0, *range(43)))
    draft.tensors.append([name, shape, kind, 0])
    return _finish(f"with {name!r} of type {kind}", draft)


def _architecture(draft: Draft) -> str:
    return str(draft.key("general.architecture")[2][8:], "utf-8", "replace")


def _structure(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    action = rng.randrange(7)
    if action == 0:
        draft.claimed_tensors = rng.choice(BIG_EDGES)
    elif action == 1:
        draft.claimed_keys = rng.choice(BIG_EDGES)
    elif action == 2:
        draft.version = rng.choice((0, 1, 2, 4, 0x03000000, 2**32 - 1))
    elif action == 3:
        del draft.keys[rng.randrange(len(draft.keys))]
    elif action == 4:
        draft.keys.append(copy.deepcopy(rng.choice(draft.keys)))
    elif action == 5:
        rng.shuffle(draft.keys)
        rng.shuffle(draft.tensors)
    else:
        # Another architecture, with every key of the old one renamed, so that the values are found.
        old, arch = _architecture(draft), rng.choice(sorted(ARCHITECTURES))
        for entry in draft.keys:
            entry[0] = entry[0].replace(f"{old}.".encode(), f"{arch}.".encode())
        draft.set_text("general.architecture", arch)
    return _finish(f"structure, {action}", draft)


def _vocabulary(rng: random.Random, base: bytes, draft: Draft) -> Mutant:
    """Tokens, types, merges and scores that are readable and odd."""
    which = rng.choice(("tokens", "token_type", "merges"))
    entry = draft.key(f"tokenizer.ggml.{which}")
    inner, count = struct.unpack_from("<IQ", entry[2])
    if which == "token_type":
        values = [rng.choice((*range(8), -1, 2**31 - 1)) for _ in range(count)]
        entry[2] = struct.pack(f"<IQ{count}i", inner, count, *values)
    else:
        items = _strings(entry[2])
        for _ in range(rng.choice((1, 3, 50))):
            odd = (
                b"",
                b"\xff",
                b"\xc3",
                b" ",
                b"a b c",
                b"\0",
                items[0],
                b"<0x0A>",
                b"\xed\xa0\x80",
                b"unused",
            )
            items[rng.randrange(len(items))] = rng.choice(odd)
        if rng.random() < 0.3:
            items = items[: rng.randrange(len(items))]
        if rng.random() < 0.2:
            items += [b"more%d" % n for n in range(rng.choice((1, 100)))]
        packed = b"".join(struct.pack("<Q", len(item)) + item for item in items)
        entry[2] = struct.pack("<IQ", inner, len(items)) + packed
    if rng.random() < 0.4:
        draft.set_text(
            "tokenizer.ggml.model",
            rng.choice(("llama", "bert", "t5", "rwkv", "none", "plamo2", "gemma4", "test")),
        )
    return _finish(f"vocabulary: {which}", draft)


def _strings(raw: bytes) -> list[bytes]:
    _, count = struct.unpack_from("<IQ", raw)
    items, at = [], 12
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", raw, at)
        items.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    return items
