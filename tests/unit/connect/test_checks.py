"""Which answers of a fresh connection must keep tenants from it?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tenantproxy.connect.checks import (
    Answer,
    clean_role_sql,
    foreign_settings,
    out_of_role,
    pooler_between,
    refusal,
)
from tenantproxy.model import PoolKey, Proof

KEY = PoolKey(server="one", database="shared", shared=True)
SCHEMA_KEY = PoolKey(server="one", database="shared", schema="acme")
GOOD = Answer(
    role="app",
    acts_as="app",
    rolsuper=False,
    rolbypassrls=False,
    standby=False,
    pid=7,
    pinned=[],
    server_now=0.0,
    max_connections=100,
    reserved_connections=3,
    database_limit=-1,
    role_limit=-1,
    version=180000,
    role_settings=[],
    installed=True,
    signs_settings=True,
    sees_prepared=True,
    takes_turns=True,
    makes_objects=False,
    owns_tables=False,
    has_schema=True,
)


@pytest.mark.parametrize("proof", [None, *Proof])
def test_a_plain_role_in_an_installed_database_may_serve(proof: Proof | None) -> None:
    assert refusal(GOOD, KEY, offset=0.2, proof=proof) is None


@pytest.mark.parametrize(
    ("answer", "proof", "words"),
    [
        (replace(GOOD, rolsuper=True), None, ["'app'", "is a superuser", "NOSUPERUSER"]),
        (replace(GOOD, rolbypassrls=True), None, ["'app'", "BYPASSRLS", "NOBYPASSRLS"]),
        (replace(GOOD, acts_as="weak"), None, ["'weak' from its start", "'app' after any reset", "SET role"]),
        (replace(GOOD, owns_tables=True), Proof.PLAIN, ["'app'", "owns tables", "OWNER TO"]),
        (replace(GOOD, installed=False), Proof.BOUND, ["not installed", "tenantproxy install"]),
        (replace(GOOD, installed=False), Proof.CARRIED, ["not installed", "tenantproxy install"]),
        (replace(GOOD, sees_prepared=False), Proof.PLAIN, ["'app'", "what is prepared", "pg_prepared_statement"]),
    ],
)
def test_a_role_or_database_that_no_wall_holds_back_is_refused(
    answer: Answer, proof: Proof | None, words: list[str]
) -> None:
    error = refusal(answer, KEY, offset=0.0, proof=proof)
    assert error is not None
    for word in [*words, "server 'one', database 'shared'"]:
        assert word in str(error)


def test_a_schema_that_is_not_there_is_refused_by_its_name() -> None:
    error = refusal(replace(GOOD, has_schema=False), SCHEMA_KEY, offset=0.0, proof=None)
    assert error is not None
    assert "the schema 'acme' does not exist" in str(error)
    assert "USAGE" in str(error)


@pytest.mark.parametrize("offset", [1.01, -1.01])
def test_a_clock_that_is_more_than_a_second_off_is_refused_where_proofs_have_a_time(offset: float) -> None:
    error = refusal(GOOD, KEY, offset=offset, proof=Proof.BOUND)
    assert error is not None
    assert f"{offset:+.1f} s" in str(error)
    assert "NTP" in str(error)
    assert refusal(GOOD, KEY, offset=offset, proof=Proof.PLAIN) is None
    assert refusal(GOOD, KEY, offset=offset / 1.02, proof=Proof.BOUND) is None


def test_where_proofs_are_signed_the_role_need_not_see_what_is_prepared() -> None:
    assert refusal(replace(GOOD, sees_prepared=False), KEY, offset=0.0, proof=Proof.BOUND) is None


@pytest.mark.parametrize(("standby", "primary"), [(False, None), (True, "one")])
def test_a_server_in_its_role_may_serve(standby: bool, primary: str | None) -> None:
    assert out_of_role(replace(GOOD, standby=standby), KEY, primary=primary) is None


def test_a_standby_is_no_primary_whatever_the_kind_of_tenant() -> None:
    for key in (KEY, SCHEMA_KEY):
        error = out_of_role(replace(GOOD, standby=True), key, primary=None)
        assert error is not None
        assert error.retryable
        assert "is a standby" in str(error)
        assert "`replicas`" in str(error)


def test_a_promoted_standby_is_no_replica() -> None:
    error = out_of_role(GOOD, KEY, primary="zero")
    assert error is not None
    assert error.retryable
    assert "not in recovery" in str(error)
    assert "'zero'" in str(error)


# --- what stands between us and the server ---------------------------------------------------------------------------
PINS = {"search_path": '"acme"', "app.current_tenant_id": "", "statement_timeout": "90000", "lock_timeout": "0"}
PINNED = replace(GOOD, pinned=['"acme"', "", "90s", "0"])


def test_a_session_of_our_own_answers_from_its_process_with_its_pins() -> None:
    assert pooler_between(PINNED, KEY, pid=7, pins=PINS) is None


def test_another_process_than_the_one_logged_in_at_betrays_a_pooler() -> None:
    error = pooler_between(PINNED, KEY, pid=8, pins=PINS)
    assert error is not None
    assert "pooler" in str(error)
    assert "PgBouncer" in str(error)


@pytest.mark.parametrize(
    ("pinned", "lost"),
    [
        (['"$user", public', "", "90s", "0"], "search_path"),
        (['"acme"', "globex", "90s", "0"], "app.current_tenant_id"),
        (['"acme"', "", "0", "0"], "statement_timeout"),
        (['"acme"', "", "9s", "1min"], "statement_timeout, lock_timeout"),
    ],
)
def test_each_pin_that_was_lost_on_the_way_is_named(pinned: list[str], lost: str) -> None:
    error = pooler_between(replace(PINNED, pinned=pinned), KEY, pid=7, pins=PINS)
    assert error is not None
    assert f"startup: {lost}." in str(error)
    assert "ignore_startup_parameters" in str(error)


@pytest.mark.parametrize(
    ("pin", "shown"),
    [("1", "1ms"), ("1500", "1500ms"), ("60000", "1min"), ("5400000", "90min"), ("7200000", "2h"), ("86400000", "1d")],
)
def test_a_timeout_is_the_same_in_whichever_unit_the_server_shows_it(pin: str, shown: str) -> None:
    answer = replace(GOOD, pinned=[shown])
    assert pooler_between(answer, KEY, pid=7, pins={"lock_timeout": pin}) is None
    assert pooler_between(answer, KEY, pid=7, pins={"lock_timeout": pin + "0"}) is not None


def test_a_standby_may_serve_what_is_carried() -> None:
    assert refusal(replace(GOOD, standby=True), KEY, offset=0.0, proof=Proof.CARRIED) is None


def test_a_session_that_acts_as_another_role_becomes_itself_to_clean_its_own() -> None:
    answer = replace(GOOD, acts_as="weak", role_settings=["0role=weak"])
    assert clean_role_sql(answer, ["0role"], database="shared", allowed={}) == [
        "SET ROLE NONE",
        'ALTER ROLE "app" RESET "role"',
    ]


# --- settings that were given to our role --------------------------------------------------------------------------
def with_settings(*entries: str) -> Answer:
    return replace(GOOD, role_settings=list(entries))


def test_settings_laid_on_our_role_are_found_and_told_without_their_values() -> None:
    answer = with_settings("0transform_null_equals=on", "1work_mem=secret", "0search_path=evil")
    found = foreign_settings(answer, pinned=["search_path", "row_security"], allowed={})
    assert found == ("0transform_null_equals", "1work_mem")


def test_settings_that_the_operator_named_are_not_foreign_as_long_as_they_have_his_value() -> None:
    allowed = {"work_mem": "64MB"}
    assert foreign_settings(with_settings("0work_mem=64MB"), pinned=[], allowed=allowed) == ()
    assert foreign_settings(with_settings("0work_mem=1GB"), pinned=[], allowed=allowed) == ("0work_mem",)


def test_a_pinned_setting_is_harmless_however_it_is_written() -> None:
    assert foreign_settings(with_settings("0DateStyle=x", "0TimeZone=y"), pinned=["datestyle"], allowed={}) == (
        "0TimeZone",
    )


def test_a_value_with_an_equals_sign_is_compared_whole() -> None:
    allowed = {"app.options": "a=b"}
    assert foreign_settings(with_settings("0app.options=a=b"), pinned=[], allowed=allowed) == ()
    assert foreign_settings(with_settings("0app.options=a=c"), pinned=[], allowed=allowed) == ("0app.options",)


def test_foreign_settings_are_taken_off_where_they_were_laid() -> None:
    answer = replace(GOOD, role='ap"p', acts_as='ap"p')
    statements = clean_role_sql(answer, ["0transform_null_equals", '1app."x'], database='sha"red', allowed={})
    assert statements == [
        'ALTER ROLE "ap""p" RESET "transform_null_equals"',
        'ALTER ROLE "ap""p" IN DATABASE "sha""red" RESET "app"."""x"',
    ]
