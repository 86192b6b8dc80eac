"""Does a device token prove a former login of one address, for a while, and nothing else?"""

from __future__ import annotations

import pytest

from tenantproxy.auth.devices import DeviceTokens

ANN, BOB = b"a" * 32, b"b" * 32


def test_a_token_is_good_for_its_address_alone() -> None:
    tokens = DeviceTokens(b"k" * 32)
    token = tokens.issue(ANN)
    assert tokens.check(token, ANN) is not None
    assert tokens.check(token, BOB) is None
    assert DeviceTokens(b"j" * 32).check(token, ANN) is None
    assert tokens.issue(ANN) != token


def test_a_token_ends_after_half_a_year() -> None:
    now = 1_000_000_000.0
    tokens = DeviceTokens(b"k" * 32, clock=lambda: now)
    token = tokens.issue(ANN)
    now += 179 * 86_400
    assert tokens.check(token, ANN) is not None
    now += 2 * 86_400
    assert tokens.check(token, ANN) is None


@pytest.mark.parametrize("text", ["", "tpd_", "tpd_" + "A" * 64, "tpr_" + "A" * 64, "\ud800", "x" * 100_000])
def test_other_text_is_no_token_and_no_error(text: str) -> None:
    assert DeviceTokens(b"k" * 32).check(text, ANN) is None


def test_a_changed_token_is_none() -> None:
    tokens = DeviceTokens(b"k" * 32)
    token = tokens.issue(ANN)
    for place in (4, 12, 22, 30, 66):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert tokens.check(changed, ANN) is None
