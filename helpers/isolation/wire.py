"""What goes through the pipes between an engine and its child: plain data, and nothing else.

A notebook's classes are unknown in the child, so what is of a class derived from `str`, `int` and
the like is sent as what it stands for, and any other stranger is refused where it is sent. What is
read makes objects of a few known classes alone, so neither side can make the other run code.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import IO, Any

from helpers.errors import HelpersError

_HEADER = struct.Struct("<Q")
_MODULES = (
    "helpers.chat.format",
    "helpers.chat.grammar",
    "helpers.engine.options",
    "helpers.engine.report",
    "helpers.errors",
    "helpers.load_options",
    "helpers.prompt",
    "helpers.timings",
)
_ROOM = "helpers.grammars."
_CLASSES = {
    ("builtins", name)
    for name in ("str", "int", "float", "dict", "list", "tuple", "set", "frozenset", "bytes")
} | {("decimal", "Decimal"), ("functools", "partial")}
_PLAIN: tuple[tuple[type, Any], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    *((kind, kind) for kind in (dict, list, tuple, set, frozenset)),
)


def frame(verb: str, to: int | list[int], content: object = None) -> bytes:
    """One message as it goes through a pipe: its length in 8 bytes, then a pickle.

    Args:
        verb: What is to be done with it.
        to: Number of the request that it is about, or numbers.
        content: Pickled by itself, so that who cannot read it still knows whom to tell.

    Raises:
        TypeError: There is an object in it that the other side does not know.
    """
    raw = pickle.dumps((verb, to, _dumps(content)), pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(raw)) + raw


def read_frame(stream: IO[bytes]) -> tuple[str, Any, Any]:
    """Read one message: its verb, whom it is about, and its content.

    A content that cannot be read is the `HelpersError` that says so.

    Raises:
        EOFError: The other side is gone.
    """
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError
    (size,) = _HEADER.unpack(header)
    raw = stream.read(size)
    if len(raw) < size:
        raise EOFError
    verb, to, content = _Unpickler(io.BytesIO(raw)).load()
    try:
        return verb, to, _Unpickler(io.BytesIO(content)).load()
    except Exception as error:
        return verb, to, HelpersError(f"A message ({verb}) could not be read: {error}.")


def _is_known(kind: type) -> bool:
    module = kind.__module__
    return (
        module in _MODULES
        or module.startswith(_ROOM)
        or (module, kind.__qualname__) in _CLASSES
        or (module == "builtins" and issubclass(kind, Exception))
    )


def _dumps(content: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(content)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Asked for each object but those of the built-in classes themselves."""
        kind = obj if isinstance(obj, type) else type(obj)
        if _is_known(kind):
            return NotImplemented
        for plain, content in _PLAIN:
            if isinstance(obj, plain):
                return plain, (content(obj),)
        raise TypeError(
            f"{repr(obj)[:200]} is of the class {kind.__module__}.{kind.__qualname__}, which the "
            "process that holds the model does not know. Give plain data: str, int, float, list, "
            "dict."
        )


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A known class; whatever else a message names is refused, and not even imported."""
        known = {"builtins", "decimal", "functools", *_MODULES}
        if module in known or module.startswith(_ROOM):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module and _is_known(found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not a class that may be sent")
