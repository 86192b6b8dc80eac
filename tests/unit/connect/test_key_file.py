"""Is a private key taken only where PostgreSQL would take it, and does the refusal say what to do?"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tenantproxy.connect.key_file import UnusableFile, load_certificate
from tests.support.authority import Authority, Pair

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions of files are POSIX's")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Authority(tmp_path).certificate("server")


def load(pair: Pair) -> None:
    load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), str(pair.certificate), str(pair.key))


def encrypt(pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"a passphrase")
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))


SPOILED: dict[str, tuple[Callable[[Pair], object], str, bool]] = {
    "readable for all": (lambda pair: pair.key.chmod(0o644), "permissions 0644", True),
    "writable for the group": (lambda pair: pair.key.chmod(0o660), "permissions 0660", True),
    "not there": (lambda pair: pair.key.unlink(), "cannot be read", True),
    "no certificate": (lambda pair: pair.certificate.unlink(), "cannot be read", False),
    "not PEM": (lambda pair: pair.key.write_text("a key"), "holds no private key", True),
    "no certificate in it": (lambda pair: pair.certificate.write_text("x"), "holds no certificate", False),
    "encrypted": (encrypt, "is encrypted", True),
    "of another": (
        lambda pair: pair.key.write_bytes(Authority(pair.key.parent, "b").certificate("c").key.read_bytes()),
        "is not the key of the certificate",
        True,
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_key_that_cannot_be_used_is_refused_with_the_reason(pair: Pair, how: str) -> None:
    spoil, why, is_key = SPOILED[how]
    load(pair)
    spoil(pair)
    with pytest.raises(UnusableFile, match=why) as caught:
        load(pair)
    assert caught.value.key == ("ssl_key_file" if is_key else "ssl_cert_file")
    assert caught.value.fix


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to give files to others")
def test_a_key_of_roots_may_be_read_by_a_group_and_one_of_another_user_is_refused(pair: Pair) -> None:
    pair.key.chmod(0o640)
    load(pair)
    os.chown(pair.key, 12345, -1)
    with pytest.raises(UnusableFile, match="belongs to another user"):
        load(pair)
