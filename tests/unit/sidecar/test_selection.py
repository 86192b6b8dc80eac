"""Whom may a person choose from where one tenant's claims are longer than a token?"""

from __future__ import annotations

import pytest

from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth
from tenantproxy.sidecar.auth import selection


def choice(tenant: str, size: int) -> dict[str, object]:
    return {"tenant": tenant, "tep": 0, "user": "7", "claims": {"name": "x" * size}}


async def test_long_claims_of_one_tenant_keep_nobody_from_others() -> None:
    tokens = Tokens(Auth.model_validate({"key": "k" * 32}), tenants=None)
    choices = [choice("acme", 10), choice("hostile", 20_000), choice("globex", 3_000)]
    token, kept = selection(tokens, choices, as_of="1:1:")
    assert kept == [0, 2]
    claims = await tokens.verify(token, purpose="selection")
    assert [each["tenant"] for each in claims["choices"]] == ["acme", "globex"]
    with pytest.raises(ValueError, match="would not be read"):
        selection(tokens, choices[1:2], as_of="1:1:")
