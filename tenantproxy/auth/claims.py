"""What does a token say, and may it say so? Pure: strict JSON in, immutable claims out."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol, TypeVar

from tenantproxy.errors import AuthError, TokenExpired

__all__ = [
    "REQUIRED",
    "claim_at",
    "expired",
    "invalid",
    "no_longer_valid",
    "parse_object",
    "reads_only",
    "times",
    "why_of",
]

REQUIRED: Final = ("iss", "aud", "sub", "exp", "iat")
_MAX_DEPTH: Final = 16
_END_OF_TIME: Final = 253_402_300_800  # the year 10000


E = TypeVar("E", bound=AuthError)


def invalid(why: str = "") -> AuthError:
    """One error for all that is wrong with a token: a stranger does not learn which check it failed, see `why_of`."""
    return _because(AuthError("the token is not valid", hint="log in again"), why)


def expired(why: str = "") -> TokenExpired:
    """For a genuine token whose time is over."""
    return _because(TokenExpired("the token has expired", hint="refresh it, or log in again"), why)


def no_longer_valid(why: str = "") -> TokenExpired:
    """For a genuine token that was revoked, or whose tenant moved, was suspended or deleted."""
    return _because(TokenExpired("the token is no longer valid", hint="refresh it, or log in again"), why)


def _because(error: E, why: str) -> E:
    vars(error)["why"] = why  # in no message, detail or repr: those go to strangers and into logs
    return error


def why_of(error: AuthError) -> str:
    """Which check a token failed, for an operator who has it before him; empty where it is unknown."""
    return str(vars(error).get("why", ""))


def parse_object(raw: bytes) -> Mapping[str, Any]:
    """The JSON object in `raw`, read only, all the way down. Raises AuthError.

    Refused, like what is no JSON object: a key that is given twice in one object (parsers differ in which they take),
    NaN and Infinity, NUL and lone surrogates in text, and nesting that no claim needs.
    """
    try:
        text = raw.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refused)
        frozen = _frozen(parsed, 0)
    except (ValueError, RecursionError):
        raise invalid("a part of it is no JSON that is read the same by every parser (a key twice, NUL, NaN)") from None
    if not isinstance(frozen, Mapping):
        raise invalid("a part of it is no JSON object")
    return frozen


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """What stands at `path`: dots go into objects (`app_metadata.tenant`); a name with `://` is taken as it is."""
    if "://" in path:
        return claims.get(path)
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


class ReadingRoles(Protocol):
    """Which roles only read; the section `[auth]` says so."""

    @property
    def role_claim(self) -> str:
        """Where a token names the role of its bearer, or a list of them."""
        ...

    @property
    def read_only_roles(self) -> Collection[str]:
        """Those that only read."""
        ...


def reads_only(claims: Mapping[str, Any], roles: ReadingRoles) -> bool:
    """Whether the bearer has roles, and only such as read. A claim that is no text and no list of texts counts so."""
    if not roles.read_only_roles or (found := claim_at(claims, roles.role_claim)) is None:
        return False
    named = found if isinstance(found, list | tuple) else (found,)
    return bool(named) and all(not isinstance(name, str) or name in roles.read_only_roles for name in named)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def _refused(constant: str) -> NoReturn:
    raise ValueError("not a number of JSON's")


def _frozen(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("contains NUL")
        value.encode("utf-8")  # UnicodeEncodeError is a ValueError: a lone surrogate
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("1e999 is none of JSON's either")
    if isinstance(value, dict):
        return MappingProxyType({_frozen(key, depth): _frozen(one, depth + 1) for key, one in value.items()})
    if isinstance(value, list):
        return tuple(_frozen(one, depth + 1) for one in value)
    return value


def times(claims: Mapping[str, Any], now: float, leeway: float) -> float:
    """Until when the claims are good. Raises TokenExpired, AuthError where a time is missing, of another kind or ahead.

    `iat` and `nbf` must not be in the future, `exp` not in the past, by more than `leeway` seconds.
    """
    exp, iat, nbf = _time(claims, "exp"), _time(claims, "iat"), _time(claims, "nbf", 0)
    if iat > now + leeway or nbf > now + leeway:
        raise invalid(f"it begins {max(iat, nbf) - now:.0f} s from now: do the clocks agree?")
    if exp < iat:
        raise invalid("exp is before iat")
    if exp <= now - leeway:
        raise expired(f"its time was over {now - exp:.0f} s ago")
    return exp + leeway


def _time(claims: Mapping[str, Any], name: str, missing: object = None) -> float:
    value = claims.get(name, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _END_OF_TIME:
        raise invalid(f"{name} is missing or no time")
    return value
