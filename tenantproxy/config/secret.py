"""Where does a secret come from? A file, a variable or the configuration itself; it is never shown."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NoReturn

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["MASK", "MAX_SECRET_BYTES", "MIN_KEY_BYTES", "MIN_TOKEN_BYTES", "Secret", "SecretKind", "role_password"]

SecretKind = Literal["inline", "file", "env"]

MASK: Final = "********"
MAX_SECRET_BYTES: Final = 64 * 1024  # a path to something endless must not fill the memory
MIN_KEY_BYTES: Final = 32
MIN_TOKEN_BYTES: Final = 16


class Conflict(tuple[str, ...]):
    """The keys that were all given although one secret has one source."""

    __slots__ = ()


class Secret:
    """A frozen reference to a secret. Each `read` gets the current value, so that a rotated file needs no restart.

    Build one with `Secret.inline`, `Secret.file` or `Secret.env`. Equal when they refer to the same thing; an
    inline one refuses to be pickled, since its value would be written out.
    """

    __slots__ = ("_value", "kind", "where")

    kind: SecretKind
    where: str
    """The path or the variable's name; empty for an inline secret."""

    def __init__(self, kind: SecretKind, where: str, *, _value: str = "") -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "_value", _value)

    @classmethod
    def inline(cls, value: str) -> Secret:
        """The value itself, as written in the configuration or given by code."""
        return cls("inline", "", _value=value)

    @classmethod
    def file(cls, path: str | os.PathLike[str]) -> Secret:
        """The content of a file, without one trailing newline."""
        return cls("file", os.fspath(path))

    @classmethod
    def env(cls, variable: str) -> Secret:
        """The value of an environment variable."""
        return cls("env", variable)

    def read(self) -> str:
        """The value now, without one trailing newline. Raises ConfigurationError when it cannot be had."""
        try:
            text = self._raw().decode()
        except UnicodeDecodeError:
            raise self._unreadable("is not UTF-8 text", "write it as text") from None
        return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text

    def read_bytes(self) -> bytes:
        """The value now, as bytes. One trailing newline is taken off text; a key of random bytes stays as it is."""
        raw = self._raw()
        if not raw.endswith(b"\n"):
            return raw
        try:
            raw.decode()
        except UnicodeDecodeError:
            return raw
        return raw[:-1].removesuffix(b"\r")

    def _raw(self) -> bytes:
        if self.kind == "inline":
            return self._value.encode()  # type: ignore[attr-defined, no-any-return]
        if self.kind == "env":
            value = os.environb.get(os.fsencode(self.where)) if os.supports_bytes_environ else _environ(self.where)
            if value is None:
                raise self._unreadable("is not set", "set the environment variable")
            return value
        try:
            # Not blocking: a FIFO without a writer would hold up its reader, the event loop too.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(self.where, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self._unreadable("is no regular file", "write the secret into a file, or use a variable")
                raw = file.read(MAX_SECRET_BYTES + 1)
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            raise self._unreadable(f"cannot be read ({why})", "create it, readable by this user") from None
        except ValueError:
            raise self._unreadable("is not a path", "remove the NUL byte") from None
        if len(raw) > MAX_SECRET_BYTES:
            raise self._unreadable(f"is larger than {MAX_SECRET_BYTES} bytes", "name the right file")
        return raw

    def _unreadable(self, problem: str, fix: str) -> ConfigurationError:
        what = "the file" if self.kind == "file" else "the variable"
        return ConfigurationError([Problem(key=f"{what} {self.where}", problem=problem, fix=fix)])

    def __repr__(self) -> str:
        return f"Secret({self.kind}{': ' + self.where if self.where else ''})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same_place = (self.kind, self.where) == (other.kind, other.where)
        return same_place and hmac.compare_digest(self._inline_bytes(), other._inline_bytes())

    def _inline_bytes(self) -> bytes:
        return self._value.encode()  # type: ignore[attr-defined, no-any-return]

    def __hash__(self) -> int:
        return hash((self.kind, self.where))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Mapping[int, object]) -> Secret:
        return self

    def __reduce__(self) -> tuple[Callable[..., Secret], tuple[str, str]]:
        if self.kind == "inline":
            raise TypeError("an inline secret cannot be pickled, since its value would be written out")
        return Secret, (self.kind, self.where)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "writeOnly": True}


def _environ(variable: str) -> bytes | None:
    value = os.environ.get(variable)
    return None if value is None else value.encode()


def _validate(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, str):
        return Secret.inline(str(value))
    if isinstance(value, Conflict):
        raise PydanticCustomError(
            "told",
            "{problem}; {fix}",
            {"problem": f"{' and '.join(value)} exclude each other", "fix": "keep one of them"},
        )
    raise PydanticCustomError("secret_type", "must be text")


def role_password(secret: bytes, server: str, role: str) -> str:
    """The password of `role` on `server`: HMAC-SHA256(secret, `server/role`), 64 hex digits; nothing to store."""
    return hmac.digest(secret, f"{server}/{role}".encode(), "sha256").hex()
