"""Is what was read before the last news of a tenant refused, however much was forgotten since?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.registry.horizon import Horizon

KEEP = 10.0


def test_what_was_read_before_the_news_of_its_tenant_is_refused() -> None:
    horizon = Horizon(keep=KEEP, max_entries=10)
    horizon.saw("acme", 100.0)
    assert not horizon.allows("acme", 100.0)
    assert horizon.allows("acme", 100.5)
    assert horizon.allows("globex", 1.0)


def test_a_margin_is_added_to_the_news() -> None:
    horizon = Horizon(keep=KEEP, max_entries=10)
    horizon.saw_all(100.0)
    assert not horizon.allows("acme", 102.0, margin=2.0)
    assert horizon.allows("acme", 102.5, margin=2.0)


@given(news=st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 5)), max_size=40), limit=st.integers(1, 4))
def test_forgetting_refuses_too_much_and_never_too_little(news: list[tuple[str, float]], limit: int) -> None:
    horizon, last, now = Horizon(keep=KEEP, max_entries=limit), dict[str, float](), 0.0
    for tenant, later in news:
        now += later
        horizon.saw(tenant, now)
        last[tenant] = now
        for each, moment in last.items():
            if moment > now - KEEP:  # what is older is refused for its age
                assert not horizon.allows(each, moment)
    assert horizon.allows("a", now + 0.1)
