"""Is a setting that says whose a session is refused under each of its names, and are the others bounded?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import InvalidSetting
from tenantproxy.wire.untracked import add, check_names, untracked


@pytest.mark.parametrize("own", ["my.tenant", "My.Tenant"])
@pytest.mark.parametrize("said", [b"my.tenant", b"MY.TENANT"])
def test_the_setting_of_row_tenants_is_refused_whatever_it_is_called(own: str, said: bytes) -> None:
    with pytest.raises(InvalidSetting, match="cannot be set at startup"):
        check_names((untracked(said, b"globex"),), [own])
    check_names((untracked(b"my.tenants", b"globex"),), [own])


def test_of_two_with_one_name_the_last_counts() -> None:
    assert add((), (untracked(b"A", b"1"), untracked(b"b", b"2"), untracked(b"a", b"3"))) == (
        (b"a", b"3"),
        (b"b", b"2"),
    )


def test_more_than_two_kilobytes_of_them_are_refused() -> None:
    few = tuple(untracked(b"app.x%d" % n, b"x" * 400) for n in range(5))
    assert len(add((), few)) == 5
    with pytest.raises(InvalidSetting, match="too long"):
        add((), (*few, untracked(b"app.y", b"y" * 20)))
    with pytest.raises(InvalidSetting, match="too long"):
        untracked(b"app.x", b"x" * 1025)
