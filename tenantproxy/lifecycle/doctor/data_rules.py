"""Which rules are about the inside of a database: schemas, functions, row tenants' tables, our own installation?"""

from __future__ import annotations

from typing import Final

from tenantproxy.lifecycle.doctor.finding import DoctorRule, Severity

__all__ = ["DATA_RULES"]

_CRITICAL, _HIGH, _WARNING, _NOTE = Severity

_SCHEMAS: Final = (
    DoctorRule(
        code="TPD061", severity=_HIGH, title="Tenants' SQL may create objects in a schema",
        says="{detail} may create objects in the schema {object}.",
        why="What it creates there stands in for the names that others use.",
    ),
    DoctorRule(
        code="TPD062", severity=_CRITICAL, is_safe=True, title="The schema of a tenant is open to others",
        says="{detail} may look into the schema {object}, which is another tenant's.",
        why="A qualified name is enough to reach its tables, as soon as anything in it is granted.",
    ),
    DoctorRule(
        code="TPD063", severity=_HIGH, title="A registered schema does not exist, or is closed to its tenant",
        says="The schema {object} {detail}.",
        why="The tenant cannot be served: a missing schema is not looked for in public.",
    ),
    DoctorRule(
        code="TPD064", severity=_WARNING, is_safe=True, title="Functions that reach other sessions are open",
        says="PUBLIC may call {detail}.",
        why="They end or watch other sessions of the same role, write large objects, or run text as SQL.",
    ),
    DoctorRule(
        code="TPD065", severity=_HIGH, is_safe=True, title="Tables to come are open to others",
        says="What {object} creates later is open to {detail}.",
        why="ALTER DEFAULT PRIVILEGES grants before any policy is there.",
    ),
    DoctorRule(
        code="TPD066", severity=_CRITICAL, title="A schema tenant reaches what is not its own",
        says="The role {detail} reaches {object}, outside of the schemas of its tenant.",
        why="It is another tenant's, or shared by all. Connections of such a role are refused, unless a tenant gave "
        "what is its own.",
        advice="or name in [schema] common what tenants may share",
    ),
    DoctorRule(
        code="TPD067", severity=_HIGH, title="Schema tenants share a role",
        says="The tenants {object} have the role {detail} in common.",
        why="Each reads the other's tables with a qualified name.",
        advice="give each a role of its own (`role`, [tenant_roles]), then `tenantproxy install --roles`",
    ),
    DoctorRule(
        code="TPD068", severity=_WARNING, is_safe=True, title="A tenant cannot dump its own sequences",
        says="The role {detail} may not read {object}, a sequence of its own tenant.",
        why="pg_dump reads each sequence, so the tenant's own dump fails.",
    ),
    DoctorRule(
        code="TPD069", severity=_CRITICAL, title="A role that is to read only could write",
        says="The role {detail} is to read only, and could write by {object}.",
        why="A session of it is given to those who may not write. Connections of such a role are refused.",
        advice="tenantproxy install --roles; or name a function that is meant in [tenant_roles] reader_functions",
    ),
    DoctorRule(
        code="TPD070", severity=_HIGH, title="A role that reads lacks what its writer reads",
        says="The role {detail} is to read what its tenant's role reads, and does not read all of it.",
        why="Those who are to read only find tables missing, or are not served at all.",
        advice="tenantproxy install --roles",
    ),
)  # fmt: skip

_ROUTINES: Final = (
    DoctorRule(
        code="TPD071", severity=_WARNING, title="Tenants may call a SECURITY DEFINER function",
        says="{detail} may call {object}, which runs with the rights of its owner.",
        why="What such a function does is not looked into: it may show rows of all tenants.",
        advice="where it is meant for them, say so: --ignore TPD071:FUNCTION",
    ),
    DoctorRule(
        code="TPD072", severity=_HIGH, title="A SECURITY DEFINER function without a fixed search_path",
        says="{object} runs with the rights of its owner, and finds names by the search_path of its caller.",
        why="A caller puts objects of the same names in front, and they run with the owner's rights.",
        advice="add the schemas that it needs behind pg_catalog",
    ),
    DoctorRule(
        code="TPD073", severity=_HIGH, title="A function of yours is LEAKPROOF",
        says="{object} is LEAKPROOF: it sees rows before policies do.",
        why="The planner runs it ahead of row security. If it tells what it sees (an error, a notice), it tells of "
        "others' rows.",
    ),
    DoctorRule(
        code="TPD074", severity=_WARNING, title="An untrusted language is installed",
        says="The language {object} is not trusted.",
        why="Its functions run as the operating system's user of the server, past all of PostgreSQL.",
    ),
    DoctorRule(
        code="TPD075", severity=_WARNING, title="Tenants may use an extension that reaches out of the database",
        says="Tenants may call functions of the extension {object}.",
        why="It opens connections or files as the server: past row security, budgets and the reset between tenants.",
    ),
    DoctorRule(
        code="TPD076", severity=_HIGH, title="Tenants may use a foreign server",
        says="{detail} may use the foreign server or wrapper {object}.",
        why="Its connections outlive a reset, and log in as what the server's mapping says.",
    ),
    DoctorRule(
        code="TPD077", severity=_HIGH, title="A publication sends all tables",
        says="The publication {object} is FOR ALL TABLES: the signing keys of this database go with it.",
        why="A subscriber can be any tenant with them.",
        advice="create it again with the tables that it needs",
    ),
    DoctorRule(
        code="TPD078", severity=_HIGH, title="A function that reads the session is IMMUTABLE",
        says="{object} is IMMUTABLE, and reads a setting or whose the session is.",
        why="A plan keeps what it said: the next caller of a prepared statement gets the value of the one before, and "
        "where a policy asks the function, rows.",
    ),
)  # fmt: skip

_TABLES: Final = (
    DoctorRule(
        code="TPD081", severity=_CRITICAL, is_safe=True, title="A table of row tenants has no row security",
        says="{object} has no row-level security: {detail} reaches the rows of all tenants.",
        why="A table without it is open to every row tenant of the database.",
    ),
    DoctorRule(
        code="TPD082", severity=_CRITICAL, is_safe=True, title="A partition has no row security",
        says="{object}, a part of another table, has no row-level security: {detail} reaches it directly.",
        why="Policies of the parent do not hold where a partition or an inheriting table is named itself.",
    ),
    DoctorRule(
        code="TPD083", severity=_CRITICAL, is_safe=True, title="A policy lets rows of other tenants through",
        says="{object}: {detail}.",
        why="Permissive policies add up. Each must compare the tenant's column with tenantproxy.bound_tenant(), or "
        "a restrictive one of tenantproxy must stand next to them. A policy that says it in other words counts "
        "as open.",
    ),
    DoctorRule(
        code="TPD084", severity=_HIGH, is_safe=True, title="Row security does not hold the owner of a table",
        says="{object} has row-level security without FORCE: its owner sees all rows.",
        why="Jobs and functions that run as the owner, and views of it, pass the policies.",
    ),
    DoctorRule(
        code="TPD085", severity=_HIGH, is_safe=True, title="A policy names roles",
        says="{object}: the policy {detail} has a TO clause.",
        why="Any tenant may run DROP OWNED BY its own role, which drops every policy TO it.",
    ),
    DoctorRule(
        code="TPD086", severity=_WARNING, is_safe=True, title="A table of row tenants has no policy that lets them in",
        says="{object} has row-level security and no permissive policy: no tenant sees its rows.",
        why="Closed to all is safe and of no use; the next policy that is written decides.",
    ),
    DoctorRule(
        code="TPD087", severity=_WARNING, is_safe=True, title="A table with the tenant's column is not guarded",
        says="{object} has the column {detail} and no row-level security; no tenant's role reaches it yet.",
        why="One GRANT opens it to all row tenants.",
    ),
    DoctorRule(
        code="TPD088", severity=_HIGH, title="A table without the tenant's column is open to all row tenants",
        says="{object} has no column of the tenant, and {detail} reaches all of it.",
        why="Tenants read, or write, what others read there. The router refuses connections until it is closed or "
        "named.",
        advice="or name in [row] unprotected what all row tenants may share",
    ),
    DoctorRule(
        code="TPD089", severity=_CRITICAL, is_safe=True, title="A view reads with the rights of its owner",
        says="The view {object} has no security_invoker: {detail} reads through it what its owner may.",
        why="Policies are those of the view's owner; of a superuser's view, none.",
    ),
    DoctorRule(
        code="TPD090", severity=_CRITICAL, title="A materialized view is open to row tenants",
        says="The materialized view {object} can be read: {detail} reaches it.",
        why="No policy can stand on it: it holds the rows of all tenants.",
    ),
    DoctorRule(
        code="TPD091", severity=_HIGH, title="A foreign table is open to row tenants",
        says="The foreign table {object} is open: {detail} reaches it.",
        why="No policy of this database holds its rows.",
    ),
    DoctorRule(
        code="TPD092", severity=_HIGH, title="A relation of an extension is open to row tenants",
        says="{object}, which belongs to an extension, is open: {detail} reaches it.",
        why="pg_stat_statements and its like show what others do.",
    ),
    DoctorRule(
        code="TPD093", severity=_HIGH, is_safe=True, title="Tenants have rights that no policy holds",
        says="{object}: {detail}, which no policy holds.",
        why="TRUNCATE empties the table for all tenants, REFERENCES tells which keys exist, TRIGGER runs code in "
        "others' sessions.",
    ),
    DoctorRule(
        code="TPD094", severity=_HIGH, title="A rule acts with the rights of its owner",
        says="{object}: {detail}.",
        why="Policies of the tables that its actions touch are those of the owner.",
    ),
    DoctorRule(
        code="TPD095", severity=_CRITICAL, title="A row tenants' role owns a table",
        says="{object} belongs to {detail}, which runs row tenants' SQL.",
        why="An owner switches row security off.",
    ),
    DoctorRule(
        code="TPD096", severity=_HIGH, is_safe=True, title="The tenant's column has a constant default",
        says="{object} has the default {detail} for the column of the tenant.",
        why="A row that names no tenant becomes that tenant's, or is refused; the session's tenant is the default "
        "that fits.",
    ),
    DoctorRule(
        code="TPD097", severity=_WARNING, is_safe=True, title="Row tenants read or set a sequence that they share",
        says="The sequence {object} counts for all tenants: {detail} it.",
        why="Its value tells how many rows all tenants have inserted, and setting it makes inserts of others fail. "
        "USAGE is enough to insert.",
    ),
    DoctorRule(
        code="TPD098", severity=_WARNING, title="A unique index does not contain the tenant",
        says="The unique index {object} does not contain the column of the tenant ({detail}).",
        why="An insert that fails tells a tenant that the value is there, with another one.",
    ),
    DoctorRule(
        code="TPD099", severity=_NOTE, title="A generated key does not contain the tenant",
        says="The unique index {object} is on a generated key alone ({detail}).",
        why="An insert with a chosen number tells whether another tenant has it. Numbers and uuids that are "
        "generated say little.",
    ),
    DoctorRule(
        code="TPD100", severity=_WARNING, title="A foreign key does not contain the tenant",
        says="The foreign key {object} does not contain the column of the tenant.",
        why="Checks of foreign keys see all rows: a tenant links its row to another tenant's, and learns which keys "
        "there are.",
    ),
    DoctorRule(
        code="TPD101", severity=_WARNING, title="No index leads with the tenant",
        says="{object} has no index that begins with {detail}.",
        why="Each statement of a tenant reads the rows of all, which is slow, and tells by its time how many there "
        "are.",
    ),
    DoctorRule(
        code="TPD102", severity=_WARNING, title="An index was not built to its end",
        says="The index {object} is invalid.",
        why="It costs each write, and no read uses it.",
    ),
    DoctorRule(
        code="TPD103", severity=_CRITICAL, is_safe=True, title="Statistics of all tenants can be read",
        says="{detail} may read {object}.",
        why="The most common values of each column stand there, of all tenants. The views pg_stats and pg_stats_ext "
        "show only what row security shows.",
    ),
)  # fmt: skip

_INSTALLED: Final = (
    DoctorRule(
        code="TPD104", severity=_HIGH, title="A table of the router's own is open to row tenants",
        says="{object} is the router's own, and {detail} reaches it.",
        why="Row tenants live in the main database, and run as the router's role. They are refused.",
        advice="give row tenants a role of their own (`role`, [tenant_roles]), or keep the main database apart",
    ),
    DoctorRule(
        code="TPD111", severity=_HIGH, title="The signed context is not installed",
        says="The signed context is not installed here, or an older one.",
        why="Row tenants of this database are refused.",
        advice="tenantproxy install --config FILE",
    ),
    DoctorRule(
        code="TPD112", severity=_HIGH, title="A function of tenantproxy's is not the one of this release",
        says="{object} {detail}.",
        why="Isolation rests on these functions. An older release made them, or they were changed.",
        advice="tenantproxy install --config FILE, which puts them right; --print-sql shows the SQL that it runs",
    ),
    DoctorRule(
        code="TPD113", severity=_CRITICAL, title="An object of tenantproxy's belongs to another role",
        says="{object} belongs to {detail}, and not to tenantproxy_keeper.",
        why="Its owner reads the keys, or replaces the functions that prove whose a session is.",
    ),
    DoctorRule(
        code="TPD114", severity=_CRITICAL, is_safe=True, title="Others may touch what is the keeper's alone",
        says="{detail} on {object}.",
        why="The keys sign any tenant, the sequences hold the binding, and what is fenced decides who is served.",
    ),
    DoctorRule(
        code="TPD115", severity=_HIGH, title="The key of this database is not the configured one",
        says="The key {object} {detail}.",
        why="Proofs that are signed with the configured key are refused here.",
        advice="tenantproxy install --config FILE",
    ),
    DoctorRule(
        code="TPD116", severity=_WARNING, title="A former key is still good",
        says="The key {object} is stored, and no longer configured.",
        why="Who has the former key can still sign. End a rotation when no process uses it.",
    ),
    DoctorRule(
        code="TPD117", severity=_HIGH, title="The trusted form does not hold",
        says='[row] form is "trusted", and {detail}.',
        why="Sessions of the trusted form are refused here.",
        advice="tenantproxy install --config FILE as a superuser",
    ),
    DoctorRule(
        code="TPD118", severity=_WARNING, title="Row tenants are not signed",
        says="[row] signed is false: the setting {object} proves nothing.",
        why="Any SQL that a tenant can inject changes the setting. It is no wall against more than mistakes.",
        advice="set [row] signed = true with a key_file, and `tenantproxy install`",
    ),
    DoctorRule(
        code="TPD119", severity=_HIGH, is_safe=True, title="Tenants may not call what binds them",
        says="The role {detail} may not call {object}.",
        why="Its sessions cannot be bound, and row tenants are refused.",
    ),
)  # fmt: skip

DATA_RULES: Final = (*_SCHEMAS, *_ROUTINES, *_TABLES, *_INSTALLED)
