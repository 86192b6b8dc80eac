"""Does main hear at once what a process wants, and only after a moment that it wants it no more?"""

from __future__ import annotations

from tenantproxy.fleet.want import Want


def test_a_want_rises_at_once_and_falls_over_a_while() -> None:
    want = Want()
    assert want.follow(3, 0.0) == 3
    assert want.follow(10, 0.1) == 10
    assert 2 < want.follow(2, 0.2) < 10
    assert round(want.follow(2, 9.0)) == 2


def test_a_connection_that_was_closed_for_another_pool_is_wanted() -> None:
    want = Want()
    want.follow(3, 0.0, displaced=5)
    assert want.follow(3, 2.0, displaced=25) == 13
    assert round(want.follow(3, 9.0, displaced=25)) == 3
