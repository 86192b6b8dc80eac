"""Is an entry read only as it was written, for the tenant and the configuration that it was written for?"""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.config import Settings
from tenantproxy.model import Isolation, Limits, Placement, Tenant, TenantStatus, tenant_id
from tenantproxy.registry.sealed import MAX_BYTES, Forged, Seal

KEY = b"k" * 32
ACME, GLOBEX = tenant_id("acme"), tenant_id("globex")


def settings(host: str = "db1.internal", **registry: object) -> Settings:
    return Settings.from_mapping(
        {
            "main": {"server": "primary", "database": "main"},
            "servers": {"primary": {"host": host, "user": "app", "password": "x"}},
            "registry": registry,
            "row": {"key": "k" * 32},
        }
    )


def a_tenant(**changes: Any) -> Tenant:
    place = Placement(isolation=Isolation.SCHEMA, server="primary", database="shared", schema="s_acme", role="acme")
    return Tenant(
        **{
            "id": ACME, "placement": place, "status": TenantStatus.SUSPENDED, "tier": "gold", "region": "eu",
            "limits": Limits(max_size=3, acquire_timeout=0.5), "epoch": 7, "settings": {"a": "ü"},
            "systems": {"crm": "s_crm"}, **changes,
        }
    )  # fmt: skip


def test_a_tenant_comes_back_with_every_field_and_its_moment() -> None:
    seal = Seal(KEY, settings())
    for tenant in (a_tenant(), a_tenant(region=None, settings={}, systems={}, limits=Limits())):
        assert seal.open(ACME, seal.seal(tenant, 1234.5)) == (tenant, 1234.5)


def test_the_entry_of_another_tenant_is_refused() -> None:
    seal = Seal(KEY, settings())
    with pytest.raises(Forged, match="not signed for this tenant"):
        seal.open(GLOBEX, seal.seal(a_tenant(), 1.0))


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_an_entry_with_any_bit_changed_is_refused(position: int, bit: int) -> None:
    seal = Seal(KEY, settings())
    entry = bytearray(seal.seal(a_tenant(), 1.0))
    entry[position % len(entry)] ^= 1 << bit
    with pytest.raises(Forged):
        seal.open(ACME, bytes(entry))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(Forged):
        Seal(KEY, settings()).open(ACME, garbage)


@pytest.mark.parametrize(
    "other",
    [
        Seal(b"o" * 32, settings()),
        Seal(KEY, settings(host="db2.internal")),
        Seal(KEY, settings(query="select $1", list_query="select $1, $2")),
    ],
    ids=["key", "server", "query"],
)
def test_an_entry_of_another_key_or_configuration_is_refused(other: Seal) -> None:
    seal = Seal(KEY, settings())
    assert other.name(ACME) != seal.name(ACME)
    with pytest.raises(Forged):
        seal.open(ACME, other.seal(a_tenant(), 1.0))


@pytest.mark.parametrize("body", [b"", b"12345678", b"12345678[]", b"12345678{}", b"12345678" + b"[" * 50_000])
def test_signed_content_of_another_form_is_refused(body: bytes) -> None:
    seal = Seal(KEY, settings())
    with pytest.raises(Forged, match="content"):
        seal.open(ACME, seal._mac(ACME, body) + body)


def test_a_signed_server_that_is_not_configured_is_refused() -> None:
    seal = Seal(KEY, settings())
    place = Placement(isolation=Isolation.DATABASE, server="elsewhere", database="x")
    with pytest.raises(Forged, match="place"):
        seal.open(ACME, seal.seal(a_tenant(placement=place), 1.0))


def test_a_long_entry_is_refused_unread() -> None:
    with pytest.raises(Forged, match="too long"):
        Seal(KEY, settings()).open(ACME, bytes(MAX_BYTES + 1))


def test_neither_the_key_nor_what_follows_from_it_is_shown() -> None:
    seal = Seal(KEY, settings())
    shown = f"{seal!r} {seal.name(ACME)}"
    assert KEY.decode() not in shown
    assert hmac.digest(KEY, b"", "sha256").hex() not in shown
    assert seal._key.hex() not in shown
