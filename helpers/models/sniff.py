"""What a file is when it is not a model: recognised by its first bytes."""

from __future__ import annotations

from helpers.models.formats import OLD_ADAPTER_MAGICS, OLD_MAGICS

HEAD_BYTES = 4096

_AGAIN = "Download the file itself again (on the Hub: the download arrow beside the .gguf file)."
_GGUF_WANTED = "llama.cpp needs a GGUF file: look for one in a repository whose name ends in -GGUF"

_MAGICS = (
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint", _GGUF_WANTED + ", or convert it."),
    (b"\x80\x02", "a Python pickle (PyTorch checkpoint)", _GGUF_WANTED + ", or convert it."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first (`gunzip`, `tar xzf`)."),
    (b"BZh", "a bzip2 archive", "Unpack it first (`bunzip2`)."),
    (b"\xfd7zXZ", "an xz archive", "Unpack it first (`unxz`)."),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it first (`unzstd`)."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it first."),
    (b"Rar!", "a RAR archive", "Unpack it first."),
    (b"\x89HDF", "an HDF5 file (Keras, TensorFlow)", _GGUF_WANTED + "."),
    (b"PAR1", "a Parquet table", _GGUF_WANTED + "."),
    (b"%PDF", "a PDF document", _GGUF_WANTED + "."),
    (b"TFL3", "a TensorFlow Lite model", _GGUF_WANTED + "."),
)


def describe_foreign_file(head: bytes, size: int) -> str | None:
    """Say what a file is instead of GGUF, and what to do; None if it begins as GGUF does.

    Args:
        head: The first bytes of the file, up to `HEAD_BYTES`.
        size: Bytes of the whole file.
    """
    if head[:4] == b"GGUF":
        return None
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return f"it is a web page (HTML), not a model. {_AGAIN}"
    if text.startswith(b"version https://git-lfs"):
        wanted = _lfs_size(head)
        is_of = f" ({size:,} bytes that stand for {wanted:,})" if wanted else ""
        return (
            f"it is a Git LFS pointer{is_of}, not the model. Run `git lfs pull` in its repository, "
            "or download the file itself."
        )
    if head[:4] in OLD_ADAPTER_MAGICS:
        return (
            f"it is {OLD_ADAPTER_MAGICS[head[:4]]}, a format that llama.cpp no longer reads, "
            "and an adapter rather than a model. Convert the original adapter with llama.cpp's "
            "convert_lora_to_gguf.py."
        )
    if head[:4] in OLD_MAGICS:
        return (
            f"it is in the old format {OLD_MAGICS[head[:4]]}, which llama.cpp stopped reading in "
            'August 2023. Convert it: `from helpers import convert_ggml; convert_ggml("old.bin")`, '
            "or download a GGUF file of the same model."
        )
    for magic, what, remedy in _MAGICS:
        if head.startswith(magic):
            return f"it is {what}, not GGUF. {remedy}"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, 9):
        return (
            f"it is a safetensors file, not GGUF. {_GGUF_WANTED}, or convert the checkpoint with "
            "llama.cpp's convert_hf_to_gguf.py."
        )
    if text.startswith((b"{", b"[")):
        preview = " ".join(head[:120].decode("utf-8", "replace").split())
        return f"it is JSON text ({preview!r}), probably a server's error message. {_AGAIN}"
    if head[:4] == b"FUGG":
        return (
            "its bytes are swapped in groups of four (it begins with 'FUGG'). Copy it again in "
            "binary mode."
        )
    if not head.strip(b"\0"):
        return f"it is full of zeros, as an interrupted download leaves it. {_AGAIN}"
    first = head[:4].decode("ascii", "backslashreplace")
    return f"it is not GGUF (it begins with {first!r}, not with 'GGUF'). {_GGUF_WANTED}."


def _lfs_size(head: bytes) -> int | None:
    for line in head.splitlines():
        if line.startswith(b"size ") and line[5:].strip().isdigit():
            return int(line[5:])
    return None
