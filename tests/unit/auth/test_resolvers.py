"""Does a request reach a tenant only by what it may say, and does everything else end in a clear error?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.auth.base import Identity, RequestContext, Resolver
from tenantproxy.auth.resolvers import (
    Agreeing,
    ClaimResolver,
    FirstOf,
    HeaderResolver,
    PathResolver,
    SubdomainResolver,
    Weight,
    authorise,
    from_settings,
)
from tenantproxy.config.auth_sections import Resolve
from tenantproxy.errors import AccessDenied, AuthError, ConfigurationError, TenantUnresolved, problem_json

CLAIM, HEADER = ClaimResolver("tenant"), HeaderResolver("X-Tenant-ID")
DEFAULT = from_settings(Resolve())
TENANTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}", fullmatch=True)
LATIN = st.text(st.characters(max_codepoint=255), max_size=80)


def ask(
    *headers: str,
    claim: object = None,
    token: bool | None = None,
    path: str = "/",
    host: str = "example.com",
    proxy: bool = False,
) -> RequestContext:
    """A request with those X-Tenant-ID headers; `token`: whether one came, by default where there is a claim."""
    claims: Mapping[str, object] | None = None
    if token or (token is None and claim is not None):
        claims = {"sub": "user-7"} if claim is None else {"sub": "user-7", "tenant": claim}
    return RequestContext(
        method="GET", path=path, host=host, headers=tuple(("x-tenant-id", value) for value in headers),
        client_ip="192.0.2.1", is_trusted_proxy=proxy, claims=claims,
    )  # fmt: skip


def status(resolver: Resolver, request: RequestContext) -> int:
    with pytest.raises(AuthError) as caught:
        authorise(resolver, request)
    return caught.value.http_status


def outcome(resolver: Resolver, request: RequestContext) -> Identity | int | None:
    """What `authorise` gives, or the status of its error."""
    try:
        return authorise(resolver, request)
    except AuthError as error:
        return error.http_status


# --- the default: claim and header agree -----------------------------------------------------------------------------
def test_claim_and_header_that_agree_name_the_tenant_and_who_asks() -> None:
    identity = authorise(DEFAULT, ask("acme", claim="acme"))
    assert identity is not None
    assert (identity.tenant, identity.user) == ("acme", "user-7")


def test_a_claim_alone_is_enough() -> None:
    identity = authorise(DEFAULT, ask(claim="acme"))
    assert identity is not None
    assert identity.tenant == "acme"


def test_a_request_that_names_nothing_has_no_tenant_and_no_default() -> None:
    assert authorise(DEFAULT, ask()) is None
    assert authorise(DEFAULT, ask(token=True)) is None


@pytest.mark.parametrize("header", ["beta", "Acme", "acme ", "acme\0", "acme,acme", "", "acm\xe9", "\xff\xfe", "а"])
def test_a_header_that_is_not_the_claim_is_a_mismatch(header: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        authorise(DEFAULT, ask(header, claim="acme"))
    assert problem_json(caught.value)["title"] == "tenant mismatch"
    assert "detail" not in problem_json(caught.value)


def test_the_same_letter_in_other_bytes_is_a_mismatch() -> None:
    # A token holds UTF-8, a header any bytes: as text the two would be equal.
    assert status(DEFAULT, ask("caf\xe9", claim="caf\xe9")) == 403


def test_a_header_alone_is_refused() -> None:
    assert status(DEFAULT, ask("acme")) == 401
    assert status(HEADER, ask("acme")) == 401


def test_a_header_beside_a_token_that_names_no_tenant_is_refused() -> None:
    assert status(DEFAULT, ask("acme", token=True)) == 403
    assert status(HEADER, ask("acme", token=True)) == 403


@pytest.mark.parametrize("claim", [None, "acme"])
def test_two_headers_of_the_name_are_malformed_even_when_they_agree(claim: str | None) -> None:
    assert status(DEFAULT, ask("acme", "acme", claim=claim)) == 400


@pytest.mark.parametrize("agree", [("header:X-Tenant-ID",), ("claim:other", "header:X-Tenant-ID")])
def test_a_trusted_proxys_header_opens_no_tenant_to_the_token_of_another(agree: tuple[str, ...]) -> None:
    trusting = from_settings(Resolve(agree=agree, trust_header_from_proxies=True))
    with pytest.raises(AccessDenied, match="tenant mismatch"):
        authorise(trusting, ask("acme", claim="beta", proxy=True), tenant_claim="tenant")
    for good in (ask("acme", claim="acme", proxy=True), ask("acme", proxy=True), ask("acme", token=True, proxy=True)):
        identity = authorise(trusting, good, tenant_claim="tenant")
        assert identity is not None
        assert identity.tenant == "acme"


def test_a_token_that_names_two_tenants_opens_neither() -> None:
    request = ask(claim="beta")
    assert request.claims is not None
    both = replace(request, claims={**request.claims, "other": "acme"})
    with pytest.raises(AccessDenied, match="tenant mismatch"):
        authorise(from_settings(Resolve(agree=("claim:other",))), both, tenant_claim="tenant")


@pytest.mark.parametrize("nested", [FirstOf(CLAIM, HEADER), Agreeing(CLAIM, HEADER), FirstOf(FirstOf(HEADER, CLAIM))])
def test_a_claim_among_combined_sources_makes_an_address_alone_too_little(nested: Resolver) -> None:
    agreeing = Agreeing(nested, SubdomainResolver("example.com"))
    assert status(agreeing, ask(host="acme.example.com")) == 401
    assert status(agreeing, ask(host="acme.example.com", token=True)) == 403
    identity = authorise(agreeing, ask(host="acme.example.com", claim="acme"))
    assert identity is not None
    assert identity.tenant == "acme"


def test_a_header_alone_is_believed_from_a_trusted_proxy_where_the_settings_say_so() -> None:
    trusting = from_settings(Resolve(trust_header_from_proxies=True))
    identity = authorise(trusting, ask("acme", proxy=True))
    assert identity is not None
    assert (identity.tenant, identity.user, dict(identity.claims)) == ("acme", None, {})
    assert status(trusting, ask("acme", proxy=False)) == 401
    assert status(DEFAULT, ask("acme", proxy=True)) == 401
    assert status(trusting, ask("acme", claim="beta", proxy=True)) == 403


@pytest.mark.parametrize("claim", [7, ["acme"], {"acme": 1}, True])
def test_a_claim_that_is_not_text_is_malformed(claim: object) -> None:
    assert status(DEFAULT, ask(claim=claim)) == 400


@pytest.mark.parametrize("claim", ["", "o'brien", "a" * 64, "-acme", "acme\n", "../acme"])
def test_a_claim_that_can_name_no_tenant_looks_like_a_mismatch(claim: str) -> None:
    assert status(DEFAULT, ask(claim=claim)) == 403


@given(claim=st.none() | TENANTS | st.text(max_size=70), headers=st.lists(TENANTS | LATIN, max_size=3))
def test_nothing_but_the_claim_is_ever_resolved(claim: str | None, headers: list[str]) -> None:
    match outcome(DEFAULT, ask(*headers, claim=claim)):
        case None:
            assert (headers, claim) == ([], None)
        case Identity() as identity:
            assert identity.tenant == claim
            assert headers in ([], [claim])
        case status:
            assert status == (400 if len(headers) > 1 else 401 if claim is None else 403)


@given(claim=TENANTS, header=TENANTS)
def test_different_tenants_never_pass(claim: str, header: str) -> None:
    if claim == header:
        assert authorise(DEFAULT, ask(header, claim=claim)) is not None
    else:
        assert status(DEFAULT, ask(header, claim=claim)) == 403


# --- subdomains ------------------------------------------------------------------------------------------------------
def test_a_subdomain_names_its_tenant() -> None:
    resolver = SubdomainResolver("Example.com")
    assert resolver.resolve(ask(host="acme.example.com")) == "acme"
    assert resolver.resolve(ask(host="acme.example.com.")) == "acme"


@pytest.mark.parametrize("host", ["example.com", "", "acme.example.org", "notexample.com", "acme.example.com.evil.org"])
def test_the_domain_itself_and_foreign_hosts_name_no_tenant(host: str) -> None:
    assert SubdomainResolver("example.com").resolve(ask(host=host)) is None


@pytest.mark.parametrize("host", ["a.b.example.com", ".example.com", "acme..example.com"])
def test_more_than_one_part_before_the_domain_is_malformed(host: str) -> None:
    assert status(SubdomainResolver("example.com"), ask(host=host)) == 400


# --- paths -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("template", "path", "tenant"),
    [
        ("/t/{tenant}/", "/t/acme/projects", "acme"),
        ("/t/{tenant}/", "/t/acme", "acme"),
        ("/t/{tenant}/", "/t/", None),
        ("/t/{tenant}/", "/t", None),
        ("/t/{tenant}/", "/x/acme", None),
        ("/t/{tenant}/", "//t/acme", None),
        ("/t/{tenant}/api", "/t/acme/api/x", "acme"),
        ("/t/{tenant}/api", "/t/acme/apix", None),
        ("/t/{tenant}/api", "/t/acme", None),
        ("/{tenant}", "/acme/x", "acme"),
        ("/{tenant}", "/", None),
    ],
)
def test_a_path_names_the_tenant_at_its_place(template: str, path: str, tenant: str | None) -> None:
    assert PathResolver(template).resolve(ask(path=path)) == tenant


def test_a_path_with_nothing_at_its_place_is_malformed() -> None:
    assert status(PathResolver("/t/{tenant}/"), ask(path="/t//projects")) == 400


@pytest.mark.parametrize("path", ["/t/../x", "/t/o'brien/x", "/t/ac me/", "/t/\0/", "/t/ácme/"])
def test_a_path_with_what_can_name_no_tenant_looks_like_an_unknown_one(path: str) -> None:
    assert status(PathResolver("/t/{tenant}/"), ask(path=path)) == 403


@pytest.mark.parametrize("template", ["", "t/{tenant}", "/t/", "/t/x{tenant}/", "/{tenant}/{tenant}", "/{tenant}/{id}"])
def test_a_template_without_exactly_one_place_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        PathResolver(template)


@given(tenant=TENANTS, rest=st.text(max_size=30))
def test_the_segment_and_nothing_of_its_neighbours_is_taken(tenant: str, rest: str) -> None:
    assert PathResolver("/t/{tenant}/").resolve(ask(path=f"/t/{tenant}/{rest}")) == tenant


@given(host=st.text(max_size=40), path=st.text(max_size=40))
def test_any_host_and_path_give_a_tenant_of_the_right_form_or_an_error(host: str, path: str) -> None:
    for resolver in (SubdomainResolver("example.com"), PathResolver("/t/{tenant}/")):
        match outcome(resolver, ask(host=f"{host}.example.com", path=f"/t/{path}")):
            case Identity() as identity:
                assert identity.tenant.isascii()
            case status:
                assert status in (None, 400, 403)


# --- together --------------------------------------------------------------------------------------------------------
def test_the_first_source_that_names_a_tenant_decides() -> None:
    either = FirstOf(CLAIM, SubdomainResolver("example.com"))
    by_both = authorise(either, ask(claim="acme", host="beta.example.com"))
    by_host = authorise(either, ask(host="beta.example.com"))
    assert by_both is not None
    assert by_host is not None
    assert (by_both.tenant, by_host.tenant) == ("acme", "beta")
    assert authorise(either, ask()) is None


def test_a_header_is_no_more_worth_as_one_of_several() -> None:
    assert status(FirstOf(CLAIM, HEADER), ask("acme")) == 401
    assert status(Agreeing(HEADER), ask("acme")) == 401
    assert status(Agreeing(CLAIM, FirstOf(HEADER)), ask("acme")) == 401


def test_an_address_is_not_enough_where_a_claim_is_expected() -> None:
    agreeing = Agreeing(CLAIM, SubdomainResolver("example.com"), PathResolver("/t/{tenant}/"))
    assert status(agreeing, ask(host="acme.example.com", path="/t/acme/")) == 401
    assert status(agreeing, ask(host="acme.example.com", token=True)) == 403
    assert status(agreeing, ask(host="acme.example.com", path="/t/acme/", claim="beta")) == 403
    identity = authorise(agreeing, ask(host="acme.example.com", path="/t/acme/", claim="acme"))
    assert identity is not None
    assert identity.tenant == "acme"


def test_addresses_among_themselves_must_agree_too() -> None:
    agreeing = Agreeing(SubdomainResolver("example.com"), PathResolver("/t/{tenant}/"))
    assert status(agreeing, ask(host="acme.example.com", path="/t/beta/")) == 403
    identity = authorise(agreeing, ask(host="acme.example.com", path="/t/acme/"))
    assert identity is not None
    assert identity.tenant == "acme"


def test_a_token_of_one_tenant_is_nobodys_at_the_address_of_another() -> None:
    for resolver in (
        SubdomainResolver("example.com"),
        FirstOf(HeaderResolver("X-Other"), SubdomainResolver("example.com")),
        Agreeing(SubdomainResolver("example.com"), PathResolver("/t/{tenant}/")),
    ):
        with pytest.raises(AccessDenied, match="tenant mismatch"):
            authorise(resolver, ask(host="beta.example.com", claim="acme"), tenant_claim="tenant")
        for claim in ("beta", None):  # and a user without a tenant may be known everywhere
            request = ask(host="beta.example.com", claim=claim, token=True)
            identity = authorise(resolver, request, tenant_claim="tenant")
            assert identity is not None
            assert (identity.tenant, identity.user) == ("beta", "user-7")


class Own:
    """An application's resolver."""

    def resolve(self, request: RequestContext) -> str | None:
        return "acme" if request.path == "/own" else None


def test_an_applications_own_resolver_answers_for_itself() -> None:
    for resolver in (Own(), FirstOf(HEADER, Own()), Agreeing(CLAIM, Own())):
        identity = authorise(resolver, ask(path="/own"))
        assert identity is not None
        assert identity.tenant == "acme"


def test_a_combination_of_nothing_is_refused() -> None:
    for kind in (FirstOf, Agreeing):
        with pytest.raises(ValueError, match="at least one"):
            kind()


def test_a_header_name_that_no_request_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="header"):
        HeaderResolver("X Tenant")


# --- the configuration -----------------------------------------------------------------------------------------------
def test_every_source_can_be_written_in_the_configuration() -> None:
    sources = ("claim:tid", "header:X-T", "subdomain:example.com", "path:/t/{tenant}/")
    resolver = from_settings(Resolve(agree=sources))
    assert [type(source) for source in resolver.sources] == [
        ClaimResolver, HeaderResolver, SubdomainResolver, PathResolver,
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["claim", "claim:", "cookie:x", "path:/t/", "header:a b", "subdomain:.", ""])
def test_a_source_that_cannot_be_read_is_named(source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_settings(Resolve(agree=("claim:tid", source)))
    assert [problem.key for problem in caught.value.problems] == ["resolve.agree.1"]


class FromTable:
    """As a user would write it: the host is looked up in a table."""

    def resolve(self, request: RequestContext) -> str | None:
        return {"app.acme.test": "acme"}.get(request.host)

    def weight(self, request: RequestContext) -> Weight:
        return Weight.ADDRESS


class Half:
    """Forgot it."""


class Waiting:
    """Wants to wait."""

    async def resolve(self, request: RequestContext) -> str | None:
        return None


class Choosy(FromTable):
    """Cannot be made from nothing."""

    def __init__(self, table: str) -> None:
        self.table = table


NO_CLASS = "text"


def test_a_class_of_ones_own_resolves_beside_the_others() -> None:
    resolver = from_settings(Resolve(agree=("claim:tid", f"{__name__}:FromTable")))
    assert isinstance(resolver.sources[1], FromTable)

    def asked(host: str, claims: Mapping[str, object] | None) -> RequestContext:
        return RequestContext(method="GET", path="/", host=host, headers=(), client_ip=None, claims=claims)

    assert resolver.resolve(asked("app.acme.test", {"tid": "acme"})) == "acme"
    for host, claims in (("app.acme.test", {"tid": "globex"}), ("app.acme.test", {})):
        with pytest.raises(AccessDenied):
            resolver.resolve(asked(host, claims))
    with pytest.raises(AuthError):
        resolver.resolve(asked("app.acme.test", None))  # its own weight: an address is no proof
    assert resolver.resolve(asked("elsewhere", None)) is None


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("nowhere.at_all:X", "the module nowhere.at_all cannot be imported"),
        (f"{__name__}:Missing", "has no Missing"),
        (f"{__name__}:NO_CLASS", "NO_CLASS is no class"),
        (f"{__name__}:Half", "Half has no resolve"),
        (f"{__name__}:Waiting", "is async"),
        (f"{__name__}:Choosy", "Choosy cannot be made"),
        ("clam:tid", "did you mean claim:tid"),
        ("Header:X-T", "did you mean header:X-T"),
    ],
)
def test_a_class_that_cannot_resolve_is_told_at_start(source: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        from_settings(Resolve(agree=("claim:tid", source)))
    assert [each.key for each in caught.value.problems] == ["resolve.agree.1"]


def test_all_sources_that_are_wrong_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_settings(Resolve(agree=("cookie", "nowhere.at_all:X", "claim:")))
    assert [each.key for each in caught.value.problems] == [f"resolve.agree.{number}" for number in range(3)]


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"resolve\.agree"):
        from_settings(Resolve(agree=()))


def test_a_resolver_alone_raises_for_what_is_given_twice() -> None:
    with pytest.raises(TenantUnresolved):
        HEADER.resolve(ask("a", "b"))
