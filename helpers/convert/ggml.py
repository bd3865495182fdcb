"""`convert_ggml`: files of 2023 to GGUF, by the converter in llama-cpp-python's source."""

from __future__ import annotations

import importlib.metadata
import os
from contextlib import closing
from pathlib import Path

from helpers.children import Child
from helpers.convert.output import check_room, choose_output, written_whole
from helpers.errors import EngineCrashed, ModelFileError
from helpers.install.build import source_folder
from helpers.install.paths import cache_dir, lock
from helpers.install.steps import say
from helpers.models.formats import OLD_MAGICS
from helpers.models.sniff import HEAD_BYTES, describe_foreign_file

_CHILD = Path(__file__).with_name("ggml_child.py")
_SCRIPT = Path("vendor", "llama.cpp", "convert_llama_ggml_to_gguf.py")
_REMEDY = "The kernel is unharmed and no file was left. Free some memory, try again."
# In what the converter says, from its own source, what to do about it.
_REMEDIES = {
    "Quantizations changed in GGJTv2": "Look for a GGUF of the model, or its F16 file",
    "Q4 and Q8 quantizations changed": "Look for a GGUF of the model, or its F16 file",
    "n_kv_head from GQA": "gqa must divide the number of heads (8 for LLaMA 2 70B, else 1)",
    "Bad name": "The converter knows files of LLaMA alone",
}


def convert_ggml(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    eps: float | None = None,
    gqa: int | None = None,
    context_length: int | None = None,
    name: str | None = None,
    desc: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert a LLaMA model from an old GGML, GGMF or GGJT file to GGUF.

    llama.cpp stopped reading these formats in August 2023. Its own converter comes in the source
    of llama-cpp-python (the version installed here), which is fetched once (74 MiB) where it is not
    in the suite's cache yet. Old files lack some numbers that GGUF has; they are the arguments. The
    best conversion is none: a GGUF of the same model has its true vocabulary and chat template.

    Args:
        path: The old file, such as "llama-2-7b.ggmlv3.q4_0.bin".
        output: File or folder to write to; by default the name with .gguf, beside `path`.
        eps: Epsilon of the norms: 1e-6 for LLaMA 1 and OpenLLaMA, 1e-5 for LLaMA 2; None: 5e-6.
        gqa: Query heads for each key and value head: 8 for LLaMA 2 70B; None: 1.
        context_length: Tokens of context in training: 2048 for LLaMA 1, 4096 for LLaMA 2;
            None: 2048.
        name: Name of the model; None: the file's.
        desc: Description of the model; None: from which format it comes.
        overwrite: Replace an existing output.

    Returns:
        The path of the GGUF file; it has passed `check_model_file`.

    Raises:
        ModelFileError: It is not such a file, it is damaged, or its quantization is too old.
        ValueError: The output is the input, or a number makes no sense.
        InstallError: The converter has to be fetched, and there is no network.

    Example:
        >>> from helpers import convert_ggml
        >>> convert_ggml("llama-2-7b.ggmlv3.q4_0.bin", eps=1e-5)  # doctest: +SKIP
    """
    for label, value in (("eps", eps), ("gqa", gqa), ("context_length", context_length)):
        if value is not None and not value > 0:
            raise ValueError(f"{label} must be more than 0, not {value!r}")
    source = Path(path).expanduser().absolute()
    _check_old_format(source)
    target = choose_output(source, output, source.with_suffix(".gguf").name, overwrite)
    check_room(target.parent, source.stat().st_size + 2**20)
    script = _converter()
    with written_whole(target, source, overwrite=overwrite) as writing:
        arguments = ["--input", str(source), "--output", str(writing.place)]
        for label, option in (
            ("--eps", eps),
            ("--gqa", gqa),
            ("--context-length", context_length),
            ("--name", name if name is not None else source.stem),
            ("--desc", desc),
        ):
            if option is not None:
                arguments.append(f"{label}={option}")
        _run([str(script), *arguments], source.name)
    return target


def _check_old_format(source: Path) -> None:
    try:
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
        size = source.stat().st_size
    except OSError as error:
        raise ModelFileError(
            f"{source} cannot be read: {error.strerror}. Check the path."
        ) from None
    if head[:4] in OLD_MAGICS:
        return
    if head[:4] == b"GGUF":
        raise ModelFileError(f"{source} is GGUF already: use it as it is.")
    raise ModelFileError(f"{source} is not an old GGML file: {describe_foreign_file(head, size)}")


def _converter() -> Path:
    """The script in the source of the installed llama-cpp-python."""
    version = importlib.metadata.version("llama-cpp-python")
    with lock(say) as hold:
        script = source_folder(version, cache_dir(), hold=hold) / _SCRIPT
    if not script.is_file():
        raise ModelFileError(
            f"llama-cpp-python {version} has no {_SCRIPT.name} in its source any more. Look for a "
            "GGUF of the model instead."
        )
    return script


def _run(command: list[str], whose: str) -> None:
    """Run the converter; its last line is the reason if it fails."""
    try:
        with closing(Child(_CHILD, role="converted the file", remedy=_REMEDY)) as child:
            child.ask(command)
    except EngineCrashed as error:
        if error.exit_status != 1:  # not the converter's own exception
            raise
        reason = error.native_log[-1] if error.native_log else str(error)
    else:
        return
    hint = next((remedy for part, remedy in _REMEDIES.items() if part in reason), None)
    raise ModelFileError(
        f"llama.cpp's converter cannot convert {whose}: {reason}. "
        + (f"{hint}." if hint else "The file is probably damaged: download or copy it again.")
    )
