"""Which answers of a server let sessions of the trusted form be told apart?"""

from __future__ import annotations

import pytest

from tenantproxy.connect.trust import not_trusted
from tenantproxy.model import PoolKey

KEY = PoolKey(server="one", database="shared", shared=True)


def test_one_answer_does() -> None:
    assert not_trusted(KEY, "trusted") is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("preset", ["begins as a tenant", "ALTER DATABASE"]),
        ("missing", ["not installed", "tenantproxy install", "bound"]),
        ("forbidden", ["may not set", "GRANT SET ON PARAMETER backtrace_functions TO tenantproxy_keeper"]),
        ("open", ["others than the keeper", "REVOKE"]),
        (None, ["does not tell"]),
        ("", ["does not tell"]),
    ],
)
def test_any_other_is_an_error_that_says_what_to_do(answer: str | None, words: list[str]) -> None:
    error = not_trusted(KEY, answer)
    assert error is not None
    text = f"{error.message} {error.detail} {error.hint}"
    assert not [word for word in [*words, "'one'", "'shared'"] if word not in text]
