"""Can a tenant's search_path give another meaning to what the trusted form runs with the tenant's own rights?"""

from __future__ import annotations

import re

from tenantproxy.lifecycle.install import TRUSTED_FILE, sql_file


def test_each_name_in_the_trusted_bound_tenant_has_its_schema() -> None:
    text = sql_file(TRUSTED_FILE, app='"app"', setting="app.current_tenant_id")
    body = re.search(
        r"FUNCTION tenantproxy\.bound_tenant\(\).*?SECURITY INVOKER.*?\$f\$\n(.*?)END \$f\$", text, re.DOTALL
    )
    assert body is not None
    rest = re.sub(r"'[^']*'", "''", body[1])
    rest = re.sub(r"\b(?:pg_catalog|tenantproxy)\.(?:\w+|\"C\")|OPERATOR\(pg_catalog\.[<>]\)", "", rest)
    words = set(re.findall(r"\w+|[^\w\s]", rest))
    known = {
        "DECLARE",
        "BEGIN",
        "IF",
        "AND",
        "THEN",
        "RETURN",
        "END",
        "COLLATE",
        "CURRENT_TIMESTAMP",
        "value",
        "E",
        "11",
    }
    assert words - known == set("():=;,'"), "a type, function, operator or collation without its schema"
