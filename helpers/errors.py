"""The exceptions of `helpers`: one tree, so that one `except HelpersError` catches them all.

::

    HelpersError
    ├── ModelFileError         the model file is missing, damaged, or not a GGUF file
    ├── GrammarError           a grammar or schema cannot be used
    ├── ContextOverflowError   the prompt does not fit the context
    ├── DeviceError            a device is missing, lost, or out of memory
    ├── EngineCrashed          the native library ended the isolated process
    ├── ServerError            a server of `python -m helpers serve` refused, or is gone
    └── InstallError           the environment cannot be made or is incomplete

Every message says what happened, names the offending value, and ends with what to do about it.
"""

from __future__ import annotations


class HelpersError(Exception):
    """Base of every exception that `helpers` raises on purpose."""


class ModelFileError(HelpersError):
    """The model file is missing, damaged, of an old format, or not a GGUF file at all."""


class GrammarError(HelpersError):
    """A grammar, or the schema it was to be made from, cannot be used.

    Attributes:
        line: Line of the fault in the source text, from 1, or None.
        column: Column of the fault in that line, from 1, or None.
        keyword: JSON Schema keyword that cannot be expressed, or None.
        pointer: JSON pointer to that keyword's place in the schema, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        keyword: str | None = None,
        pointer: str | None = None,
    ) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.keyword = keyword
        self.pointer = pointer


class ContextOverflowError(HelpersError):
    """The prompt, or a text to embed, has more tokens than the context holds.

    Attributes:
        n_prompt_tokens: Tokens in it.
        n_ctx: Tokens that the context holds.
    """

    def __init__(self, n_prompt_tokens: int, n_ctx: int, message: str | None = None) -> None:
        super().__init__(
            message
            or f"The prompt has {n_prompt_tokens} tokens, but the context holds {n_ctx} "
            "(prompt and answer together). "
            f"Set n_ctx={_next_power_of_two(n_prompt_tokens + 256)} or more, or shorten the prompt."
        )
        self.n_prompt_tokens = n_prompt_tokens
        self.n_ctx = n_ctx

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the numbers and the message."""
        return (type(self), (self.n_prompt_tokens, self.n_ctx, str(self)))


def _next_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


class DeviceError(HelpersError):
    """A device (GPU, accelerator, RPC server) is missing, lost, or out of memory."""


class EngineCrashed(HelpersError):  # the name is part of the public contract
    """The process that held the model ended without being asked to.

    Attributes:
        native_log: The last lines that the native library logged, oldest first.
        exit_status: Exit status of the process; negative is the number of the signal.
    """

    def __init__(
        self, message: str, *, native_log: tuple[str, ...] = (), exit_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.native_log = native_log
        self.exit_status = exit_status


class ServerError(HelpersError):
    """A server (`python -m helpers serve`) refused a call, did not answer, or broke off.

    Attributes:
        status: HTTP status of its answer; None where there was none.
        code: What the protocol calls the cause, such as "invalid_api_key"; None where unknown.
        retry_after: Seconds after which it may be tried again; None where the server did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class InstallError(HelpersError):
    """The environment cannot be made, or something that the suite needs is missing."""
