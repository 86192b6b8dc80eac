"""Who says that a command found or did this? Its report in JSON, signed with the key of `[auth]`, and the verification.

HMAC-SHA256 with a key that is derived from the secret, or Ed25519 with the private key itself where `[auth] algorithm`
is EdDSA: then the public key (`/auth/jwks.json`) is enough to verify it. What is signed begins with a line that no
token begins with and that names the kind of the report, so that none can be taken for another.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from tenantproxy.auth.keys import Key, KeyRing, own_keys
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.printable import json_text

__all__ = ["ReportRefused", "check_signing", "signed_json", "verified_json"]

_MAX_REPORT: Final = 16 * 1024 * 1024


class ReportRefused(TenantProxyError):
    """A report is not one, was changed, or was signed with another key."""

    code = "report_refused"


def check_signing(settings: Settings) -> None:
    """Whether there is a key that signs. Raises ConfigurationError."""
    _keys(settings)


def signed_json(kind: str, values: Mapping[str, Any], settings: Settings) -> str:
    """The report as JSON; `kind` is the command. Raises ConfigurationError without a key to sign with."""
    key = _keys(settings).signer
    body = {"report": f"tenantproxy {kind}", **values}
    value = _sign(kind, key, _message(kind, body))
    signed = {**body, "signature": {"algorithm": key.algorithm, "kid": key.kid, "value": value}}
    return json_text(signed, indent=2) + "\n"


def verified_json(kind: str, text: str, settings: Settings) -> dict[str, Any]:
    """What a genuine report of that kind says. Raises ReportRefused, ConfigurationError without a key."""
    if len(text) > _MAX_REPORT:
        raise ReportRefused("this report is too long to be one")
    try:
        body: dict[str, Any] = json.loads(text)
        signature = body.pop("signature")
        kid, value = str(signature["kid"]), base64.b64decode(str(signature["value"]), validate=True)
        message = _message(kind, body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ReportRefused(f"this is no signed report of tenantproxy {kind}") from None
    keys = _keys(settings)
    key = keys.known(kid)
    if key is None or signature.get("algorithm") != key.algorithm:
        hint = "verify it with the configuration that signed it"
        raise ReportRefused("the report was signed with a key that this configuration does not have", hint=hint)
    if not _is_genuine(kind, key, message, value):
        raise ReportRefused("the report was changed, or another key signed it")
    return body


def _keys(settings: Settings) -> KeyRing:
    if not settings.auth.keys():
        fix = "add [auth] key_file with 32 bytes or more, or leave --json away"
        raise ConfigurationError([Problem(key="auth.key_file", problem="is missing: it signs the report", fix=fix)])
    return own_keys(settings.auth)


def _purpose(kind: str) -> bytes:
    return f"tenantproxy {kind} report v1\n".encode()


def _message(kind: str, body: dict[str, Any]) -> bytes:
    return _purpose(kind) + json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _mac(kind: str, key: Key, message: bytes) -> bytes:
    return hmac.digest(hmac.digest(key.sealing, _purpose(kind), "sha256"), message, "sha256")


def _sign(kind: str, key: Key, message: bytes) -> str:
    value: bytes = key.signing.sign(message) if key.algorithm == "EdDSA" else _mac(kind, key, message)
    return base64.b64encode(value).decode()


def _is_genuine(kind: str, key: Key, message: bytes, value: bytes) -> bool:
    if key.algorithm != "EdDSA":
        return hmac.compare_digest(_mac(kind, key, message), value)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verifying.verify(value, message)
    except InvalidSignature:
        return False
    return True
