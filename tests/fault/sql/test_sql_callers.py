"""Who may ask for SQL over HTTP, and for which tenant? Passwords, tokens, and what they do not reach."""

from __future__ import annotations

import pytest

from tests.support.port_house import users
from tests.support.sql_house import a_sql_house, connection_string
from tests.support.wire_client import PASSWORD
from tests.support.world import World

pytestmark = pytest.mark.asyncio

SECRET = "k" * 40
AUTH = {"key": SECRET, "issuer": "tests", "audience": "sql"}
NAME = "SELECT name FROM projects ORDER BY id LIMIT 1"
ONE = {"password": PASSWORD, "tenants": ["row1"]}


def _jwt(house: object, tenant: str, user: str = "ann") -> str:
    """An access token of the tenant's."""
    desk = house.port.port._desk  # type: ignore[attr-defined]
    token: str = desk.tokens.issue(tenant=desk._router.registry.peek(tenant), user=user)
    return token


async def test_a_user_reaches_its_own_tenants_and_hears_the_same_of_all_others(lasting: World) -> None:
    async with a_sql_house(lasting, pg={"users": users(one=ONE)}) as house:
        assert (await house.ask(NAME, user="one")).value == "row1 1"
        told = []
        for text in (
            connection_string("row2", "one"),
            connection_string("nowhere", "one"),
            connection_string("row1", "one", "guess"),
            connection_string("row1", "one", ""),
            connection_string("tenantproxy", "one"),
            connection_string("row1", "one") + "?tenant=row2",
            connection_string("row1", "one") + "?options=-c%20tenant%3Drow2",
        ):
            refused = await house.ask(NAME, headers={"Neon-Connection-String": text})
            assert (refused.status, refused.code) == (400, "28P01"), text
            told.append({**refused.body})
        assert all(each == told[0] for each in told), "the answers tell users and tenants apart"
        stranger = await house.ask(NAME, headers={"Neon-Connection-String": connection_string("row1", "unknown")})
        assert stranger.body == {**told[0], "message": told[0]["message"].replace('"one"', '"unknown"')}
        everywhere = await house.ask(NAME, headers={"Neon-Connection-String": connection_string("nowhere")})
        assert everywhere.code == "3D000"


async def test_a_malformed_caller_is_refused_and_nothing_of_it_quoted(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        for text in ("", "mysql://all:s3cr3t@h/row1", "postgresql:///row1", "all:s3cr3t", "postgresql://all:s3cr3t@[x/row1",
                     "postgresql://all:%ff@h/row1", "postgresql://all:s3cr3t@h/row1/more"):  # fmt: skip
            refused = await house.ask(NAME, headers={"Neon-Connection-String": text or None})
            assert refused.status == 400, text
            assert refused.code in ("28P01", "08P01"), text
            assert "s3cr3t" not in str(refused.body)
        basic = await house.ask(NAME, headers={"Authorization": "Basic YWxsOnB3"})
        assert basic.code == "28000"


async def test_a_token_reaches_its_tenant_alone_whatever_the_string_says(lasting: World) -> None:
    async with a_sql_house(lasting, auth=AUTH, pg={"jwt": True}) as house:
        await house.ask(NAME, tenant="row1")  # its tenant is known then
        await house.ask(NAME, tenant="row2")
        token = _jwt(house, "row1")
        bearer = {"Authorization": f"Bearer {token}"}
        for text in (None, "postgresql://jwt@h/row1", "postgresql://ann@h/row1", f"postgresql://jwt:{token}@h/row1"):
            good = await house.ask(NAME, headers={**bearer, "Neon-Connection-String": text})
            assert good.value == "row1 1", (text, good.body)
        as_password = await house.ask(NAME, headers={"Neon-Connection-String": f"postgresql://jwt:{token}@h/row1"})
        assert as_password.value == "row1 1"
        for text in (
            "postgresql://jwt@h/row2", "postgresql://bob@h/row1", "postgresql://all@h/row1",
            connection_string("row1"), connection_string("row2"), f"postgresql://jwt:{token}x@h/row1",
            "postgresql://jwt@h/row1?tenant=row2",
        ):  # fmt: skip
            refused = await house.ask(NAME, headers={**bearer, "Neon-Connection-String": text})
            assert refused.code in ("28P01", "28000"), (text, refused.body)
        for header in ("Bearer x.y.z", "Bearer", f"Bearer {token}x"):
            wrong = await house.ask(NAME, headers={"Authorization": header, "Neon-Connection-String": None})
            assert wrong.code in ("28P01", "28000"), header


async def test_without_jwt_no_token_is_taken(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        refused = await house.ask(NAME, headers={"Authorization": "Bearer a.b.c", "Neon-Connection-String": None})
        assert refused.code == "28P01"


async def test_a_wrong_password_is_tried_a_few_times_and_who_was_right_is_served_on(lasting: World) -> None:
    login = {"attempts_per_address": 2}
    async with a_sql_house(lasting, login=login) as house:
        assert (await house.ask(NAME)).value == "row1 1"
        codes = []
        for number in range(6):
            wrong = {"Neon-Connection-String": connection_string("row1", "all", f"guess {number}")}
            codes.append((await house.ask(NAME, headers=wrong)).code)
        assert codes[:2] == ["28P01"] * 2
        assert codes[-1] == "53400"
        assert (await house.ask(NAME)).value == "row1 1"
        house.door._callers._known.clear()  # type: ignore[union-attr]
        assert (await house.ask(NAME)).code == "53400"


async def test_a_password_over_an_open_network_is_refused_unless_a_proxy_ended_tls(lasting: World) -> None:
    """The client of a trusted proxy is who that says, by whatever that says it came."""
    async with a_sql_house(lasting, http={"trusted_proxies": ["127.0.0.1"]}) as house:
        far = {"X-Forwarded-For": "203.0.113.9"}
        refused = await house.ask(NAME, headers=far)
        assert refused.code == "28000"
        assert "https" in refused.body["hint"]
        assert (await house.ask(NAME, headers={**far, "X-Forwarded-Proto": "https"})).value == "row1 1"
        assert (await house.ask(NAME)).value == "row1 1"
