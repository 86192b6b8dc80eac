"""Where do tests get certificates that are good, or bad in one way? An authority, and its list of revoked ones.

Keys are elliptic: made in no time. Files with keys have mode 0600, as PostgreSQL and libpq want them.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Pair", "self_signed"]

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path
    serial: int

    @property
    def listener(self) -> dict[str, str]:
        """As keys of a listener, or of a server."""
        return {"ssl_cert_file": str(self.certificate), "ssl_key_file": str(self.key)}


class Authority:
    """Signs certificates into `folder`. Its own is `root`, of `hosts`; `crl` is its list of revoked certificates."""

    def __init__(self, folder: Path, name: str = "authority", *, hosts: Sequence[str] = ()) -> None:
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of the tests")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._prefix = name
        builder = self._builder(self._name, self._key.public_key(), days=2).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in hosts]), False)
        made = builder.sign(self._key, hashes.SHA256())
        self.root = folder / f"{name}.crt"
        self.root.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def own_key(self) -> Path:
        """The key of `root`, in a file."""
        path = self.folder / f"{self._prefix}-own.key"
        path.touch(mode=0o600)
        path.write_bytes(_pem(self._key))
        return path

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, days: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * _DAY)
            .not_valid_after(now + days * _DAY)
        )

    def certificate(
        self,
        common_name: str,
        *others: str,
        days: float = 1,
        file: str = "",
        digest: hashes.HashAlgorithm | None = None,
    ) -> Pair:
        """For `common_name`, and `others` as alternative names: host names or addresses. `days` < 0: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), key.public_key(), days=days
        )
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in others]), False)
        made = builder.sign(self._key, hashes.SHA256())
        stem = self.folder / f"{self._prefix}-{file or common_name.replace('/', '_')}"
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"), made.serial_number)
        pair.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(_pem(key))
        return pair

    def crl(self, *revoked: Pair) -> Path:
        """The list with these in it."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - _DAY)
            .next_update(now + _DAY)
        )
        for pair in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(pair.serial).revocation_date(now - _DAY).build()
            builder = builder.add_revoked_certificate(entry)
        path = self.folder / f"{self._prefix}-{len(revoked)}.crl"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def self_signed(folder: Path, *hosts: str) -> Pair:
    """A certificate for `hosts`, names or addresses, that is its own authority."""
    made = Authority(folder, "-".join(hosts), hosts=hosts)
    return Pair(made.root, made.own_key(), 0)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
