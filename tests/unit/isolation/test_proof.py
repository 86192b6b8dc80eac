"""Is a proof what the SQL function verifies, and does a key open one database only?"""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.isolation.proof import MIN_KEY_BYTES, Signer, derive_key, key_pads

KEY = bytes(range(32))

tenants = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,62}", fullmatch=True)
keys = st.binary(min_size=MIN_KEY_BYTES, max_size=64)
moments = st.integers(0, 9_999_999_999_999_999)


@given(keys, tenants, st.text(min_size=1, max_size=63), st.integers(0, 9), st.integers(0, 2**31 - 1), moments, moments)
def test_a_proof_is_its_head_and_the_hmac_of_head_database_and_tenant(
    key: bytes, tenant: str, database: str, kid: int, pid: int, from_us: int, to_us: int
) -> None:
    proof = Signer(key, database=database, kid=kid).sign(tenant, pid=pid, from_us=from_us, to_us=to_us)
    head = f"v1.{kid}.{pid:010}.{from_us:016}.{to_us:016}."
    reference = hmac.new(key, f"{head}{database}|{tenant}".encode(), hashlib.sha256).hexdigest()
    assert proof == head + reference
    assert len(proof) == 114


def test_a_proof_is_of_one_tenant_one_backend_one_time_one_key_and_one_database() -> None:
    def sign(
        tenant: str = "acme", *, pid: int = 7, start: int = 1, end: int = 2, key: bytes = KEY, database: str = "d"
    ) -> str:
        signature = Signer(key, database=database).sign(tenant, pid=pid, from_us=start, to_us=end)
        return signature.rpartition(".")[2]

    variants = [
        sign(),
        sign("acmf"),
        sign(pid=8),
        sign(start=0),
        sign(end=3),
        sign(key=KEY[::-1]),
        sign(database="e"),
    ]
    assert len(set(variants)) == len(variants)


def test_no_proof_of_signed_settings_passes_for_one_of_a_tenant() -> None:
    signer = Signer(KEY, database="d")
    tenant = signer.sign("acme|{}", pid=7, from_us=1, to_us=2)
    context = signer.sign_context("acme", "{}", pid=7, from_us=1, to_us=2)
    assert (len(tenant), len(context)) == (114, 120)
    assert tenant[-64:] != context[-64:]
    assert context != signer.sign_context("acme", '{"a": ""}', pid=7, from_us=1, to_us=2)


def test_one_signer_signs_again_and_again_without_mixing_anything_up() -> None:
    signer = Signer(KEY, database="d")
    first = signer.sign("a", pid=1, from_us=1, to_us=2)
    signer.sign("b", pid=1, from_us=1, to_us=2)
    assert signer.sign("a", pid=1, from_us=1, to_us=2) == first


@pytest.mark.parametrize("kid", [-1, 10])
def test_a_key_id_that_does_not_fit_into_a_proof_is_refused(kid: int) -> None:
    with pytest.raises(ValueError, match="0 to 9"):
        Signer(KEY, database="d", kid=kid)


def test_the_key_of_a_database_is_the_hmac_of_where_it_is() -> None:
    derived = derive_key(KEY, server="primary", database="shared", kid=3)
    assert derived == hmac.new(KEY, b"primary/shared/3", hashlib.sha256).digest()


def test_a_stolen_key_opens_no_other_database_server_or_generation() -> None:
    places = [("one", "a", 1), ("one", "b", 1), ("two", "a", 1), ("one", "a", 2)]
    derived = {derive_key(KEY, server=server, database=database, kid=kid) for server, database, kid in places}
    assert len(derived) == len(places)


@given(keys)
def test_the_pads_are_those_of_rfc_2104(key: bytes) -> None:
    inner, outer = key_pads(key)
    mac = hashlib.sha256(outer + hashlib.sha256(inner + b"message").digest()).digest()
    assert mac == hmac.new(key, b"message", hashlib.sha256).digest()
    assert len(inner) == len(outer) == 64


def test_a_signer_shows_neither_its_key_nor_its_database() -> None:
    shown = repr(Signer(b"k" * 32, database="confidential"))
    assert "confidential" not in shown
    assert "kkk" not in shown
