"""Is a transaction behind a pooler begun, checked and proven as it must be? Its texts, and every wrong answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tenantproxy.errors import IsolationError
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.transaction import TransactionEntry, in_full
from tenantproxy.model import Binding, PoolKey, Proof, tenant_id

NONCE = "0" * 32
MODE = in_full("")
Row = list[str | None]


def entry(*, schema: str | None = None, proof: Proof | None = None) -> TransactionEntry:
    binding = None if proof is None else Binding(tenant=tenant_id("acme"), proof=proof)
    key = PoolKey(server="s", database="d", schema=schema, shared=binding is not None)
    return TransactionEntry(key=key, role="app", settings=(("a.b", "it's"), ("row_security", "on")), binding=binding)


def answer(asked: TransactionEntry) -> list[Row]:
    where: Row = ["d", "app", "app", "off", "f", "", NONCE]
    in_force: Row = [asked.key.schema or "public", "on", "read committed", NONCE]
    if asked.binding is not None:
        in_force.append("" if asked.is_signed else asked.binding.tenant)
        where += ["17", "1234"] if asked.is_signed else []
        return [[""], where, ["x"], ["t"], in_force]
    return [[""], where, ["x"], in_force]


ENTRIES = [entry(), entry(schema="one"), entry(proof=Proof.PLAIN), entry(proof=Proof.BOUND)]


@pytest.mark.parametrize("asked", ENTRIES)
def test_the_right_answer_is_taken_and_any_other_is_not(asked: TransactionEntry) -> None:
    challenge = asked.opened(answer(asked), MODE, NONCE)
    assert (challenge is not None) == asked.is_signed
    for at, cell in [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 6), (-1, 1), (-1, 2), (-1, 3)]:
        rows = answer(asked)
        rows[at][cell] = "other"
        with pytest.raises(IsolationError):
            asked.opened(rows, MODE, NONCE)
    changes: list[Callable[[list[Row]], object]] = [
        list.pop,
        lambda rows: rows.append([]),
        lambda rows: rows[1].clear(),
    ]
    for change in changes:
        rows = answer(asked)
        change(rows)
        with pytest.raises(IsolationError):
            asked.opened(rows, MODE, NONCE)


def test_a_schema_tenant_sees_no_schema_outside_and_its_own_inside() -> None:
    asked = entry(schema="one")
    for at, cell in [(1, 5), (-1, 0)]:
        rows = answer(asked)
        rows[at][cell] = "two"
        with pytest.raises(IsolationError, match="schema"):
            asked.opened(rows, MODE, NONCE)


def test_the_proof_is_for_this_transaction_alone() -> None:
    asked = entry(proof=Proof.BOUND)
    challenge = asked.opened(answer(asked), MODE, NONCE)
    assert challenge == (17, 1234)
    said = asked.proving(challenge, Signer(b"k" * 32, database="d"), NONCE)
    assert "v1.1.0000000017.0000000000001234.0000000000001234." in said
    asked.proven([["", ""], ["acme", NONCE]], NONCE)
    for wrong in ([["", ""], ["evil", NONCE]], [["", ""], ["acme", "1" * 32]], [["acme", NONCE]], []):
        with pytest.raises(IsolationError):
            asked.proven(wrong, NONCE)


def test_no_text_of_others_gets_into_the_message_as_sql() -> None:
    said = entry().opening(MODE, NONCE)
    assert "it's" not in said
    assert b"it's".hex() in said
