"""Is what is said at a turn what the SQL verifies, and is nothing secret in what is shown of it?"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.turn import FREE, RESET, RESET_ALONE, SOFT, Asked, enter, keep
from tenantproxy.model import Binding, Proof, tenant_id

KEY: Final = b"k" * 32
NONCE: Final = "a" * 32
SIGNER: Final = Signer(KEY, database="shared", kid=3)
BINDING: Final = Binding(tenant=tenant_id("acme"), proof=Proof.BOUND, setting="my.tenant")
UNTIL: Final = 60 << 32 | 1060  # for a window of 60 seconds
MAC: Final = hmac.digest(KEY, b"v2|bound|shared|7|-5|%d|acme" % UNTIL, hashlib.sha256)


def test_the_proof_the_next_nonce_and_the_echo_are_parts_of_one_hmac() -> None:
    said, nonce = enter(BINDING, SIGNER, pid=7, nonce=-5, prepared=4, server_now=999.5, window=60.0, resets=False)
    assert said.sql.endswith(f"; SELECT tenantproxy.enter('acme', 3, {UNTIL}, '{MAC[:16].hex()}', 4)")
    assert nonce == int.from_bytes(MAC[16:24], "big", signed=True)
    assert f"{MAC[24:].hex()} acme".encode() in said.answer


def test_a_turn_behind_a_reset_says_the_reset_first() -> None:
    said, _ = enter(BINDING, SIGNER, pid=7, nonce=-5, prepared=4, server_now=999.5, window=60.0, resets=True)
    assert said.sql.startswith(f"{RESET.sql}; SELECT tenantproxy.enter(")
    assert said.answer.startswith(RESET.answer[: -len(b"Z\0\0\0\5I")])


def test_neither_the_proof_nor_what_follows_from_it_is_shown() -> None:
    said, _ = enter(BINDING, SIGNER, pid=7, nonce=-5, prepared=4, server_now=999.5, window=60.0, resets=True)
    proof = SIGNER.turn("acme", form="bound", pid=7, nonce=-5, until=UNTIL)
    for part in (MAC[:16].hex(), MAC[24:].hex()):
        assert part not in repr(said)
        assert part not in repr(proof)


def test_what_is_kept_puts_the_two_settings_back() -> None:
    text = keep(BINDING, until=0, name="mine").said(NONCE).sql
    assert text.endswith(f"; SET my.tenant = 'acme'; SET app.tenant_proof = 'bound'; EXECUTE \"mine\"('{NONCE}')")


@pytest.mark.parametrize(
    "asked",
    [
        FREE,
        RESET_ALONE,
        SOFT,
        keep(BINDING, until=1_700_000_000, name="mine"),
        keep(replace(BINDING, proof=Proof.TRUSTED), until=1_700_000_000, name="mine"),
    ],
)
def test_each_reset_is_answered_by_its_own_nonce_alone(asked: Asked) -> None:
    one, other = asked.said(NONCE), asked.said("b" * 32)
    assert NONCE in one.sql
    assert NONCE.encode() in one.answer
    assert other.answer == one.answer.replace(NONCE.encode(), b"b" * 32) != one.answer
