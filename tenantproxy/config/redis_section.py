"""Where do processes share what they looked up? [registry.redis]."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, model_validator

from tenantproxy.config.host_values import host_port
from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.values import Count, Flag, Seconds, Text, as_text, told

__all__ = ["RedisCacheSettings"]

_PORT: Final = 6379


def _address(value: object) -> Any:
    text = as_text(value)
    if text:
        try:
            _host_port(text)
        except ValueError as exc:  # never the value, which may hold a password
            raise told(str(exc), 'write for example address = "redis.internal:6379"') from None
    return text


def _host_port(text: str) -> tuple[str, int]:
    if "://" in text or "@" in text:
        raise ValueError("is a URL; user and password_file are keys of their own")
    has_port = text.count(":") == 1 or "]:" in text
    return host_port(text if has_port else f"{text}:{_PORT}")


class RedisCacheSettings(Section):
    """A Redis between the memory of each process and the source; empty `address`: none. `timeout` in seconds.

    `key`: what entries are signed with, the same in all processes; `database`: the number that SELECT takes.
    """

    address: Annotated[Text, BeforeValidator(_address)] = ""
    user: Text = ""
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    database: Count = 0
    tls: Flag = False
    tls_ca_file: Text = ""
    timeout: Seconds = 0.1
    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None

    @property
    def host_port(self) -> tuple[str, int]:
        """`address` in its parts."""
        return _host_port(self.address)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        fields = type(self).model_fields.items()
        if not self.address and any(getattr(self, name) != field.default for name, field in fields):
            raise told("has no address", 'write for example address = "redis.internal:6379", or remove the section')
        if self.address and self.key is None:
            raise told(
                "has no key_file: an entry without a signature could send a tenant anywhere",
                "write a key with: openssl rand -hex 32, and name its file in all processes",
            )
        if self.user and self.password is None:
            raise told("names a user without a password", "add password_file")
        if self.tls_ca_file and not self.tls:
            raise told("names tls_ca_file, and tls is off", "write tls = true")
        return self
