"""Do the series of login say what was counted, and are all results there from the start?"""

from __future__ import annotations

from prometheus_client.core import Metric

from tenantproxy.auth.login import RESULTS, LoginCounts
from tenantproxy.metrics.logins import LoginCollector


def values(counts: LoginCounts | None, reuses: int = 0) -> dict[tuple[str, ...], float]:
    families: list[Metric] = list(LoginCollector(lambda: counts, lambda: reuses).collect())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_before_the_first_login_every_result_is_there_as_nought() -> None:
    found = values(None)
    assert {key[1] for key in found if key[0] == "tenantproxy_logins_total"} == set(RESULTS)
    assert not any(found.values())


def test_attempts_are_counted_by_result_with_their_time_and_how_far_they_searched() -> None:
    counts = LoginCounts()
    counts.observe("ok", 0.02, 0)
    counts.observe("refused", 0.3, 50)
    counts.observe("refused", 0.03, 7)
    found = values(counts)
    assert found["tenantproxy_logins_total", "ok"] == 1
    assert found["tenantproxy_logins_total", "refused"] == 2
    assert found["tenantproxy_login_seconds_bucket", "refused", "0.05"] == 1
    assert found["tenantproxy_login_seconds_count", "refused"] == 2
    assert found["tenantproxy_login_databases_searched_bucket", "10.0"] == 2
    assert found["tenantproxy_login_databases_searched_sum",] == 57
    assert not any("_created" in key[0] for key in found)


def test_spent_refresh_tokens_that_came_again_are_counted_from_nought() -> None:
    assert values(None)["tenantproxy_refresh_token_reuses_total",] == 0
    assert values(None, 3)["tenantproxy_refresh_token_reuses_total",] == 3
