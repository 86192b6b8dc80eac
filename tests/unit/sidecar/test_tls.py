"""Is a listener's certificate read as it is, and is everything wrong with it said with its key?"""

from __future__ import annotations

import hashlib
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509

from tenantproxy.config import Http, Pg
from tenantproxy.errors import AuthError, ConfigurationError
from tenantproxy.sidecar.pg.encryption import Channel, channel_of, check_encryption
from tenantproxy.sidecar.tls import listener_tls
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def keys(authority: Authority, **changes: str) -> dict[str, Any]:
    return authority.certificate("localhost").listener | changes


def test_a_listener_tells_when_its_certificate_ends_and_what_binds_a_login_to_it(authority: Authority) -> None:
    pair = authority.certificate("localhost", days=3)
    tls = listener_tls(Pg(**pair.listener), "pg")
    assert tls is not None
    assert abs(tls.expires_at - time.time() - 3 * 86400) < 60
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    assert x509.load_der_x509_certificate(der).subject
    assert tls.binding == hashlib.sha256(der).digest()
    assert listener_tls(Pg(), "pg") is None


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"ssl_ciphers": "NONSENSE"}, "ssl_ciphers", "selects no cipher"),
        ({"ssl_client_ca_file": "/dev/null"}, "ssl_client_ca_file", "holds no certificate of an authority"),
        ({"ssl_client_ca_file": "/nowhere"}, "ssl_client_ca_file", "cannot be read"),
        ({"ssl_crl_file": "/nowhere"}, "ssl_crl_file", "cannot be read"),
        ({"ssl_key_file": "/nowhere"}, "ssl_key_file", "cannot be read"),
        ({"ssl_cert_file": "/nowhere"}, "ssl_cert_file", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_key(
    authority: Authority, changes: dict[str, str], key: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        listener_tls(Http(**keys(authority, **changes)), "http")
    assert caught.value.problems[0].key == f"http.{key}"
    assert words in caught.value.problems[0].problem


def test_the_least_version_is_the_one_that_is_asked_for(authority: Authority) -> None:
    for version, least in (("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)):
        tls = listener_tls(Pg(**keys(authority, ssl_min_version=version)), "pg")
        assert tls is not None
        assert tls.context.minimum_version is least
        assert tls.context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("peer", "is_local"),
    [
        (("127.0.0.1", 5), True),
        (("127.9.9.9", 5), True),
        (("::1", 5, 0, 0), True),
        (("::ffff:127.0.0.1", 5, 0, 0), True),
        (("::ffff:192.0.2.1", 5, 0, 0), False),
        (("192.0.2.1", 5), False),
        (("fe80::1%eth0", 5, 0, 2), False),
        (("127.0.0.1.example.com", 5), False),
        ("", True),  # a unix socket
    ],
)
def test_only_the_machine_itself_may_do_without_encryption(peer: object, is_local: bool) -> None:
    transport: Any = SimpleNamespace(get_extra_info=lambda name: peer)
    channel = channel_of(transport)
    assert channel.is_private is is_local
    check_encryption(channel, "never")
    check_encryption(Channel(is_encrypted=True), "always")
    for required in ("always", "remote"):
        if required == "always" or not is_local:
            with pytest.raises(AuthError, match="must be encrypted"):
                check_encryption(channel, required)
        else:
            check_encryption(channel, required)
