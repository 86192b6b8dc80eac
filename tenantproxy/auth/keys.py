"""Which key says that a token is genuine? Each key has one algorithm, and is long enough or not used at all."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenantproxy.config import MIN_KEY_BYTES, Auth, Secret
from tenantproxy.errors import AuthError, ConfigurationError, Problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

__all__ = ["Key", "KeyRing", "KeySource", "KeysUnavailable", "OneKey", "is_fit", "own_keys", "public_key", "shared_key"]

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192  # beyond, one verification takes milliseconds
_MAX_FILE: Final = 64 * 1024
_RSA: Final = f"an RSA key of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits"
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_FIT: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    **{algorithm: f"an EC key on the curve {curve}" for algorithm, curve in _CURVES.items()},
    "EdDSA": "an Ed25519 key",
}


class KeysUnavailable(AuthError):
    """The keys of the issuer cannot be fetched, and none that are known are recent enough."""

    http_status, sqlstate, code, retryable = 503, "08006", "keys_unavailable", True


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key. `signing` is None where tokens are only verified; neither part is ever shown."""

    kid: str
    algorithm: str
    verifying: Any = field(repr=False)
    signing: Any = field(default=None, repr=False)
    sealing: bytes = field(default=b"", repr=False)
    family: frozenset[str] = frozenset()
    """Further algorithms of the same kind that a key of no declared algorithm may verify; never of another kind."""
    """For MACs of our own, derived from `signing`."""


class KeySource(Protocol):
    """Where keys are found by the `kid` of a token; `jwks.Jwks`, `KeyRing` and `OneKey` are such."""

    @property
    def generation(self) -> int:
        """Another number as soon as any key was replaced or withdrawn: what was verified before is verified again."""
        ...

    def known(self, kid: str | None) -> Key | None:
        """The key, when it is at hand."""
        ...

    async def find(self, kid: str | None) -> Key | None:
        """The key, looked for elsewhere if need be; None: it is unknown. Raises KeysUnavailable."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


class KeyRing:
    """Our own keys by id. All verify, one signs. `kid` is looked up in a dict and used for nothing else."""

    generation: Final = 0

    def __init__(self, keys: Mapping[str, Key], *, signer: str) -> None:
        self._keys = dict(keys)
        self.signer = self._keys[signer]

    def __getitem__(self, kid: str) -> Key:
        return self._keys[kid]

    def known(self, kid: str | None) -> Key | None:
        """See `KeySource`. A token without a kid is not our own."""
        return self._keys.get(kid) if kid is not None else None

    async def find(self, kid: str | None) -> Key | None:
        """See `KeySource`."""
        return self.known(kid)

    async def close(self) -> None:
        """See `KeySource`."""

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())


class OneKey:
    """The only key of an issuer, whatever that issuer calls it."""

    generation: Final = 0

    def __init__(self, key: Key) -> None:
        self._key = key

    def known(self, kid: str | None) -> Key | None:
        """See `KeySource`."""
        return self._key

    async def find(self, kid: str | None) -> Key | None:
        """See `KeySource`."""
        return self._key

    async def close(self) -> None:
        """See `KeySource`."""


def own_keys(settings: Auth) -> KeyRing:
    """The keys we sign with, read now. Raises ConfigurationError: one is missing, too short or of another kind."""
    secrets = settings.keys()
    if not secrets:
        fix = "name a file with 32 bytes or more, or where another issuer's keys are: jwks_url, public_key_file"
        raise ConfigurationError([Problem(key="auth.key_file", problem="is missing", fix=fix)])
    problems: list[Problem] = []
    keys: dict[str, Key] = {}
    for kid, secret in secrets.items():
        name = f"auth.key_files.{kid}" if settings.key_files else "auth.key"
        try:
            keys[kid] = _hmac(kid, secret, name) if settings.algorithm == "HS256" else _ed25519(kid, secret, name)
        except ConfigurationError as exc:
            problems += exc.problems
    if problems:
        raise ConfigurationError(problems)
    return KeyRing(keys, signer=settings.signing_kid or list(keys)[-1])


def shared_key(secret: Secret, name: str) -> Key:
    """The secret that another issuer shares for HS256. Raises ConfigurationError, about `name`."""
    return Key(kid="", algorithm="HS256", verifying=_hmac("", secret, name).verifying)


def _hmac(kid: str, secret: Secret, name: str) -> Key:
    value = secret.read_bytes()
    if len(value) < MIN_KEY_BYTES:
        raise _unfit(name, f"is {len(value)} bytes long, at least {MIN_KEY_BYTES} are needed", "openssl rand -hex 32")
    # What is public is no secret: with a public key here, who has it could sign (RS256/HS256 confusion).
    if value.lstrip().startswith((b"-----BEGIN", b"ssh-", b"ecdsa-")):
        raise _unfit(name, "is an asymmetric key, HS256 needs a secret", "openssl rand -hex 32")
    return Key(kid=kid, algorithm="HS256", verifying=value, signing=value, sealing=_derived(value))


def _ed25519(kid: str, secret: Secret, name: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(secret.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise _unfit(name, "is no Ed25519 private key in PEM", "openssl genpkey -algorithm ed25519")
    sealing = _derived(key.private_bytes_raw())
    return Key(kid=kid, algorithm="EdDSA", verifying=key.public_key(), signing=key, sealing=sealing)


def _derived(secret: bytes) -> bytes:
    return hmac.digest(secret, b"tenantproxy sealing", "sha256")


def public_key(settings: Auth) -> Key:
    """The key in `public_key_file` (PEM, or a certificate in PEM). Raises ConfigurationError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    name = "auth.public_key_file"
    try:
        with Path(settings.public_key_file).open("rb") as file:
            pem = file.read(_MAX_FILE)
        is_certificate = b"BEGIN CERTIFICATE" in pem
        key = load_pem_x509_certificate(pem).public_key() if is_certificate else load_pem_public_key(pem)
    except OSError as exc:
        raise _unfit(name, f"cannot be read ({exc.strerror})", "name the issuer's public key in PEM") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unfit(name, "is no public key in PEM", "name the issuer's public key in PEM") from None
    if not is_fit(key, settings.algorithm):
        raise _unfit(name, f"does not go with {settings.algorithm}", f"it needs {_FIT[settings.algorithm]}")
    return Key(kid="", algorithm=settings.algorithm, verifying=key)


def is_fit(key: PublicKeyTypes, algorithm: str) -> bool:
    """Whether `key` is of the kind and strength that `algorithm` needs."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if algorithm.startswith(("RS", "PS")):
        return isinstance(key, RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
    if algorithm in _CURVES:
        return isinstance(key, EllipticCurvePublicKey) and key.curve.name == _CURVES[algorithm]
    return algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey)


def _unfit(name: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key=name, problem=problem, fix=f"make one with: {fix}")])
