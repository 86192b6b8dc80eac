"""Is a login bound to a certificate by the hash that RFC 5929 means, whatever signed it?"""

from __future__ import annotations

import datetime
import hashlib
import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from tenantproxy.wire.end_point import end_point

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def certificate(key: Any, digest: Any, rsa_padding: Any = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, digest, rsa_padding=rsa_padding)
    )
    return made.public_bytes(serialization.Encoding.DER)


DIGESTS = [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]


@pytest.mark.parametrize("digest", DIGESTS, ids=lambda digest: digest.name)
@pytest.mark.parametrize("kind", ["ecdsa", "rsa", "rsa-pss"])
def test_the_hash_is_that_of_the_signature(kind: str, digest: Any) -> None:
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size) if kind == "rsa-pss" else None
    made = certificate(EC if kind == "ecdsa" else RSA, digest, pss)
    assert end_point(made) == hashlib.new(digest.name, made).digest()


def test_a_signature_without_a_hash_binds_nothing() -> None:
    assert end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) == b""


def test_a_certificate_that_is_cut_or_changed_is_no_error() -> None:
    made, chance = certificate(RSA, hashes.SHA256()), random.Random(1)
    for at in range(len(made)):
        end_point(made[:at])
    for _ in range(2000):
        changed = bytearray(made)
        changed[chance.randrange(len(made))] = chance.randrange(256)
        end_point(bytes(changed))
    assert end_point(b"") == b""
