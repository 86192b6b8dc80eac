"""Are the names of what is made for tenants safe, and as different as the tenants?"""

from __future__ import annotations

import re
from string import ascii_letters, digits
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy import ConfigurationError
from tenantproxy.config import Settings
from tenantproxy.lifecycle.provision.wanted import safe_name

IDS: Final = st.builds(
    "".join,
    st.tuples(st.sampled_from(ascii_letters + digits), st.text(ascii_letters + digits + "_.-", max_size=62)),
)
PATTERNS: Final = st.sampled_from(["tenant_{id}", "{id}", "agency_{id}_{uuid8}", f"{'x' * 40}_{{id}}"])
MINIMAL: Final[dict[str, object]] = {
    "main": {"server": "primary", "database": "main"},
    "servers": {"primary": {"host": "127.0.0.1", "user": "u"}},
}
MARK: Final = "0123456789abcdef" * 2


@given(PATTERNS, IDS)
def test_a_name_is_plain_and_as_long_as_postgresql_keeps_it(pattern: str, tenant: str) -> None:
    assert re.fullmatch(r"[a-z0-9_]{1,63}", safe_name(pattern, tenant, MARK))


@given(PATTERNS, st.lists(IDS, min_size=2, max_size=20, unique=True))
def test_tenants_that_differ_have_names_that_differ(pattern: str, tenants: list[str]) -> None:
    assert len({safe_name(pattern, tenant, MARK) for tenant in tenants}) == len(tenants)


def test_identifiers_that_look_alike_have_names_that_differ() -> None:
    alike = ["acme-1", "acme_1", "acme.1", "Acme_1", "ACME_1", "x" * 63, "x" * 62]
    assert len({safe_name("tenant_{id}", tenant, MARK) for tenant in alike}) == len(alike)


def test_a_plain_identifier_is_in_the_name_as_it_is() -> None:
    assert safe_name("agency_{id}_{uuid8}", "acme_1", MARK) == "agency_acme_1_01234567"


@given(st.sampled_from(["tenant_{id}_{system}", "{id}{system}_{uuid8}", f"{'x' * 20}_{{id}}_{{system}}"]), IDS, IDS)
def test_names_of_two_parts_fit_too(pattern: str, tenant: str, system: str) -> None:
    assert re.fullmatch(r"[a-z0-9_]{1,63}", safe_name(pattern, tenant, MARK, system=system[:32]))


def test_a_long_part_takes_the_room_that_a_short_one_leaves() -> None:
    assert safe_name("tenant_{id}_{system}", "a" * 50, MARK, system="crm") == f"tenant_{'a' * 50}_crm"


def test_a_domain_is_in_a_name_with_its_dots_as_underscores() -> None:
    name = safe_name("agency_{domain}_{uuid8}", "7", MARK, domain="Company.Example-1.com")
    assert name == "agency_company_example_1_com_01234567"
    assert len(safe_name("agency_{domain}_{uuid8}", "7", MARK, domain="x" * 253)) == 63


@pytest.mark.parametrize(
    ("provision", "said"),
    [
        ({"database": "agency_{domain}"}, "database has no {id}"),
        ({"role": "t"}, "role has no {id}"),
        ({"database": "x" * 54 + "{id}"}, "database leaves 9 of 63 bytes for 1 names"),
        ({"system_schema": "tenant_{id}"}, "system_schema has no {system}"),
        ({"database": "host=evil dbname={id}"}, "database"),
        ({"systems": ["a b"]}, "systems has 'a b'"),
    ],
)
def test_patterns_that_could_clash_or_be_read_otherwise_are_refused(provision: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Settings.from_mapping({**MINIMAL, "provision": provision})
