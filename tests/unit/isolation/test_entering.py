"""What is sent to make a session a tenant's, and to take it away again?"""

from __future__ import annotations

import pytest

from tenantproxy.isolation import Signer
from tenantproxy.isolation.base import FULL_RESET, KEEP_RESET, SOFT_RESET
from tenantproxy.isolation.row import BIND, change_reset, enter, keep_reset, window_us
from tenantproxy.model import Binding, Proof, tenant_id

ACME = tenant_id("acme")
SIGNER = Signer(b"k" * 32, database="d")
NOW = 1_700_000_000.25


def binding(proof: Proof, setting: str = "app.current_tenant_id") -> Binding:
    return Binding(tenant=ACME, proof=proof, setting=setting)


def expected(pid: int) -> str:
    start, end = window_us(NOW, 60.0)
    return SIGNER.sign(ACME, pid=pid, from_us=start, to_us=end)


def test_a_bound_session_is_entered_by_verifying_its_proof_once() -> None:
    statement = enter(binding(Proof.BOUND), SIGNER, pid=7, server_now=NOW, window=60.0)
    assert (statement.sql, statement.args, statement.answer) == (BIND, (ACME, expected(7)), ACME)


def test_a_carried_session_is_entered_with_setting_and_proof() -> None:
    statement = enter(binding(Proof.CARRIED, "my.tenant"), SIGNER, pid=7, server_now=NOW, window=60.0)
    assert statement.args == ("my.tenant", ACME, expected(7))
    assert statement.sql.count("pg_catalog.set_config($1, $2, false)") == 1
    assert "pg_catalog.set_config('app.tenant_proof', $3, false)" in statement.sql
    assert statement.answer == ACME


def test_a_plain_session_is_entered_with_the_setting_alone_and_needs_no_key() -> None:
    statement = enter(binding(Proof.PLAIN, "my.tenant"), None, pid=7, server_now=NOW, window=60.0)
    assert (statement.args, statement.answer) == (("my.tenant", ACME), ACME)


@pytest.mark.parametrize("proof", list(Proof))
def test_neither_tenant_nor_proof_is_part_of_the_text(proof: Proof) -> None:
    statement = enter(binding(proof), SIGNER, pid=7, server_now=NOW, window=60.0)
    assert ACME not in statement.sql
    assert "v1." not in statement.sql


@pytest.mark.parametrize("proof", [Proof.BOUND, Proof.CARRIED])
def test_a_signed_session_is_not_entered_without_a_signer(proof: Proof) -> None:
    with pytest.raises(ValueError, match="signer"):
        enter(binding(proof), None, pid=7, server_now=NOW, window=60.0)


def test_the_repr_of_a_statement_shows_no_proof() -> None:
    statement = enter(binding(Proof.BOUND), SIGNER, pid=7, server_now=NOW, window=60.0)
    assert statement.args[1] not in repr(statement)
    assert statement.args[1].rpartition(".")[2] not in repr(statement)


def test_a_window_begins_two_seconds_ago_and_ends_with_the_second_in_which_it_would_end() -> None:
    start, end = window_us(NOW, 60.0)
    assert start == round((NOW - 2) * 1_000_000)
    assert end == 1_700_000_061 * 1_000_000
    assert end - NOW * 1_000_000 >= 60_000_000


# --- resets ----------------------------------------------------------------------------------------------------------
def test_cursors_are_closed_first_since_closing_them_may_run_somebodys_code() -> None:
    for text in (SOFT_RESET, KEEP_RESET, *map(changing, Proof), keep_reset(binding(Proof.BOUND))):
        first = text.removeprefix(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
        )  # runs nothing, and waits for nothing
        assert first.startswith("CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *;")
        assert "pg_catalog.pg_advisory_unlock_all()" in text
        assert "DISCARD TEMP" in text
    assert FULL_RESET == "DISCARD ALL"


def changing(proof: Proof) -> str:
    return change_reset(3, proof)


@pytest.mark.parametrize("proof", list(Proof))
def test_a_reset_for_another_tenant_ends_the_binding_and_counts_the_drivers_statements(proof: Proof) -> None:
    text = changing(proof)
    assert "DISCARD SEQUENCES" in text
    assert "3" in text.partition(SOFT_RESET)[2]


def test_statements_prepared_in_sql_are_looked_for_by_the_installed_function_or_without_one_by_ourselves() -> None:
    for proof in (Proof.BOUND, Proof.CARRIED):
        assert changing(proof).endswith(f"; {SOFT_RESET}; SELECT tenantproxy.prepared_check(3)")
    assert "from_sql" in changing(Proof.PLAIN)
    assert "< 3 " in changing(Proof.PLAIN)
    assert "tenantproxy." not in changing(Proof.PLAIN)


def test_a_reset_for_the_same_tenant_keeps_the_binding_and_puts_back_two_settings_none_of_them_secret() -> None:
    text = keep_reset(binding(Proof.BOUND, "my.tenant"))
    assert text == KEEP_RESET + "; SET my.tenant = 'acme'; SET app.tenant_proof = 'bound'"
    assert "DISCARD SEQUENCES" not in text
