"""Which rules are about whole servers: roles, settings, databases, budgets, secrets, and what cannot be looked at?"""

from __future__ import annotations

from typing import Final

from tenantproxy.lifecycle.doctor.finding import DoctorRule, Severity

__all__ = ["SERVER_RULES"]

_CRITICAL, _HIGH, _WARNING, _NOTE = Severity

_LOOKING: Final = (
    DoctorRule(
        code="TPD001", severity=_HIGH, is_blind=True, title="A server cannot be reached",
        says="The server cannot be looked at: {detail}.",
        why="Nothing is known of a server that does not answer, so it does not count as clean.",
        advice="start it, or correct its section in [servers]",
    ),
    DoctorRule(
        code="TPD002", severity=_HIGH, is_blind=True, title="A database cannot be looked at",
        says="The database cannot be looked at: {detail}.",
        why="One database that is broken, locked or closed to the audit's user does not stop the look at the "
        "others, and does not count as clean.",
        advice="let the user of [servers.NAME.admin] connect to it, and try again",
    ),
    DoctorRule(
        code="TPD003", severity=_NOTE, title="Not all can be seen",
        says="Not looked at: {detail}.",
        why="Stored keys, pg_hba.conf and what a role can reach are shown to a superuser, or to roles that may act "
        "for others.",
        advice="name a superuser in [servers.NAME.admin] for a complete audit",
    ),
    DoctorRule(
        code="TPD004", severity=_HIGH, is_blind=True, title="The registry cannot be read",
        says="The registry cannot be read: {detail}.",
        why="Without the registry it is not known which tenants there are, and where.",
        advice="see `tenantproxy tenants list`",
    ),
    DoctorRule(
        code="TPD005", severity=_WARNING, title="An entry of the registry cannot be used",
        says="The entry of tenant {object} cannot be used: {detail}.",
        why="Such a tenant is not served, and its database is not looked at.",
        advice="correct its entry; `tenantproxy tenants list --unusable` shows all of them",
    ),
    DoctorRule(
        code="TPD006", severity=_HIGH, title="The server's user cannot log in",
        says="The role {object}, as which requests are served, cannot log in: {detail}.",
        why="All that is served with it fails.",
        advice="set its password again: `tenantproxy install --roles`, or correct password_file",
    ),
    DoctorRule(
        code="TPD007", severity=_WARNING, title="The making of a tenant was interrupted",
        says="The tenant {object} is half made: {detail}.",
        why="What was made for it so far is there, and no process works on it.",
        advice="tenantproxy tenants finish, or abandon",
    ),
)  # fmt: skip

_ROLES: Final = (
    DoctorRule(
        code="TPD011", severity=_CRITICAL, title="Tenants' SQL runs as a superuser, or with BYPASSRLS",
        says="The role {object}, which runs tenants' SQL, has {detail}: no policy and no grant holds it back.",
        why="Row-level security and grants do not apply to it. Connections of such a role are refused by the "
        "router. What else it reaches is looked at when this is put right.",
    ),
    DoctorRule(
        code="TPD012", severity=_HIGH, title="Tenants' SQL runs with CREATEROLE, CREATEDB or REPLICATION",
        says="The role {object}, which runs tenants' SQL, has {detail}.",
        why="CREATEROLE makes it a member of other roles (before PostgreSQL 16 of nearly all), REPLICATION reads "
        "all data, CREATEDB fills the disk.",
    ),
    DoctorRule(
        code="TPD013", severity=_CRITICAL, title="Tenants' SQL runs as a member of a predefined role",
        says="The role {object}, which runs tenants' SQL, is a member of {detail}.",
        why="pg_read_all_data, pg_execute_server_program, pg_monitor and their like reach data, files, programs or "
        "statements of all tenants. NOINHERIT does not help: SET ROLE is enough.",
    ),
    DoctorRule(
        code="TPD014", severity=_WARNING, title="Tenants' SQL runs as a member of another role",
        says="The role {object}, which runs tenants' SQL, is a member of {detail}.",
        why="With SET ROLE it reaches what that role reaches, now and after each later grant to it.",
    ),
    DoctorRule(
        code="TPD015", severity=_CRITICAL, title="Tenants' SQL can become another tenant or an administrator",
        says="The role {object}, which runs tenants' SQL, can become {detail}.",
        why="SET ROLE gives it all that the other role may do: another tenant's data, the signing keys, or everything.",
    ),
    DoctorRule(
        code="TPD016", severity=_HIGH, title="A tenant's role does not exist, or cannot log in",
        says="The role {object} {detail}.",
        why="The tenants that it serves cannot be served.",
        advice="its password comes with `tenantproxy install --roles`",
    ),
    DoctorRule(
        code="TPD017", severity=_CRITICAL, title="A role of tenantproxy's own can be used by others",
        says="The role {object}, which owns what no session may touch, {detail}.",
        why="tenantproxy_keeper owns the signing keys, tenantproxy_lookup reads accounts past row security. Neither "
        "logs in or has members.",
    ),
    DoctorRule(
        code="TPD018", severity=_HIGH, is_safe=True, title="A setting was laid on a tenant's role",
        says="Every session of the role {object} begins with {detail}, which no configuration names.",
        why="A role may run ALTER ROLE ... SET on itself, so one tenant changes what the SQL of all others of that "
        "role means or locks them out. The router takes such settings off at its next connect.",
        advice="a setting of your own belongs into [servers.NAME] role_settings",
    ),
    DoctorRule(
        code="TPD019", severity=_WARNING, title="A connection limit of a role is below its budget",
        says="The role {object} has a CONNECTION LIMIT of {detail}.",
        why="Connects beyond it fail with 53300 although the budget has room.",
        advice="or lower the budget",
    ),
    DoctorRule(
        code="TPD020", severity=_HIGH, title="A role's password has an end",
        says="The password of the role {object} is good until {detail}.",
        why="From then on no connection can be opened.",
    ),
)  # fmt: skip

_SETTINGS: Final = (
    DoctorRule(
        code="TPD031", severity=_HIGH, title="The version of PostgreSQL is too old, or has known leaks",
        says="PostgreSQL {object} {detail}.",
        why="CVE-2023-2455 and CVE-2024-10976 let row security be passed, CVE-2025-8713 shows rows through "
        "statistics. The first versions without them are 15.14, 16.10, 17.6 and 18.0.",
        advice="install the newest minor release, and restart",
    ),
    DoctorRule(
        code="TPD032", severity=_WARNING, title="max_prepared_transactions is not 0",
        says="max_prepared_transactions is {detail}: sessions of one role can finish each other's prepared "
        "transactions.",
        why="PREPARE TRANSACTION outlives the session and its reset, and any session of the same role commits it.",
        advice="it takes effect when the server is restarted",
    ),
    DoctorRule(
        code="TPD033", severity=_WARNING, title="Parameters of statements are written into the server's log",
        says="{object} writes the values of parameters into the server's log: {detail}.",
        why="Values of all tenants stand there, and proofs of the signed context, which are good for a minute.",
    ),
    DoctorRule(
        code="TPD034", severity=_HIGH, title="A tenant may set a parameter that is the server's",
        says="{object} may {detail}.",
        why="session_replication_role switches triggers and foreign keys off, and others reach further. "
        "backtrace_functions is where the trusted form keeps the tenant: only tenantproxy_keeper may set it.",
        is_safe=True,
    ),
    DoctorRule(
        code="TPD035", severity=_CRITICAL, title="pg_hba.conf lets connections in without a password",
        says="Line {object} of pg_hba.conf trusts {detail}.",
        why="Any process that reaches the server there is any role, a superuser too.",
        advice="write scram-sha-256 in that line, and SELECT pg_reload_conf()",
    ),
    DoctorRule(
        code="TPD036", severity=_CRITICAL, title="Every session begins as a tenant",
        says="backtrace_functions, where the trusted form keeps the tenant, is set for {object}.",
        why="Each reset returns to a value of this form, so all sessions there are that tenant's.",
        is_safe=True,
    ),
    DoctorRule(
        code="TPD037", severity=_HIGH, title="Passwords are stored as MD5",
        says="The password of the role {object} is stored as {detail}.",
        why="An MD5 hash is as good as the password, and the port of tenantproxy does not log in with one.",
        advice="set the password again with password_encryption = scram-sha-256",
    ),
    DoctorRule(
        code="TPD038", severity=_CRITICAL, title="A connection pooler is between us and the server",
        says="A connection pooler is in between: {detail}.",
        why="A session is not the router's alone then, so that nothing can be proven of it.",
        advice="name PostgreSQL itself in [servers], or say so: pooler = \"pgbouncer\"",
    ),
    DoctorRule(
        code="TPD039", severity=_HIGH, title="The clocks differ",
        says="The clock of the server is {detail} from ours.",
        why="Proofs are good for a window of time. Beyond 1 s connections of row tenants are refused.",
        advice="synchronise the clocks (NTP)",
    ),
    DoctorRule(
        code="TPD040", severity=_WARNING, title="Connections over the network are not encrypted",
        says="Connections to {object} are not encrypted.",
        why="Data of tenants, and proofs, can be read on the way.",
        advice='write ssl = "verify-full" and ssl_root_cert_file in [servers.NAME]',
    ),
    DoctorRule(
        code="TPD041", severity=_HIGH, title="The budgets exceed what the server has",
        says="The budgets of {object} are {detail}.",
        why="The server refuses connections with 53300 before the budget does, to all tenants.",
        advice="lower max_connections in [servers.NAME], or raise max_connections of the server",
    ),
    DoctorRule(
        code="TPD042", severity=_WARNING, title="Others can read a secret's file",
        says="The file of {object} has the permissions {detail}: other users of this machine can use it.",
        why="Who has the row key can be any tenant, who has the role key logs in as any.",
        advice="chmod 600 FILE (or 640 with a group of its own)",
    ),
)  # fmt: skip

_DATABASES: Final = (
    DoctorRule(
        code="TPD050", severity=_HIGH, is_safe=True, title="A tenant's role may not connect to its database",
        says="The role {detail} may not connect to the database {object}, where its tenants are.",
        why="They cannot be served.",
    ),
    DoctorRule(
        code="TPD051", severity=_HIGH, title="A database of tenants is open to PUBLIC",
        says="PUBLIC has {detail} on the database {object}.",
        why="Every login of the server may connect, and with TEMPORARY create objects that other sessions meet.",
        advice="grant CONNECT to other logins that you let in, as those of migrations",
    ),
    DoctorRule(
        code="TPD052", severity=_HIGH, title="Another login may connect to a database of tenants",
        says="The role {object} may connect to the database {detail}, and is none of its tenants.",
        why="Only the tenants' role, the owner and the administrator have anything to do there.",
    ),
    DoctorRule(
        code="TPD053", severity=_HIGH, is_safe=True, title="Tenants' SQL may create schemas or temporary objects",
        says="The role {object}, which runs tenants' SQL, has {detail} on the database.",
        why="Temporary tables and views outlive a lease where a reset is left out, and can make a reset fail; a "
        "schema of its own lets it shadow names.",
    ),
    DoctorRule(
        code="TPD054", severity=_CRITICAL, title="A row tenants' role owns the database",
        says="The role {detail}, which runs row tenants' SQL, owns the database {object}.",
        why="An owner grants itself what it lacks.",
    ),
    DoctorRule(
        code="TPD055", severity=_WARNING, title="A connection limit of a database is below its pool's",
        says="The database {object} has a CONNECTION LIMIT of {detail}.",
        why="Connects beyond it fail with 53300 although the pool has room.",
        advice="or lower the tenant's max_size",
    ),
    DoctorRule(
        code="TPD056", severity=_HIGH, title="A registered database does not exist",
        says="The database {object} does not exist, and {detail} is registered there.",
        why="The tenant cannot be served.",
        advice="restore it, or correct the registry",
    ),
    DoctorRule(
        code="TPD057", severity=_WARNING, title="A database of tenants is in no registry",
        says="The database {object} is in no registry, and {detail}.",
        why="What was left behind holds a tenant's data, and is not audited, migrated or backed up.",
        advice="register it, or back it up first and drop it",
    ),
    DoctorRule(
        code="TPD058", severity=_WARNING, title="A role of tenants is in no registry",
        says="The role {object} can log in, is named as those of tenants are, and is in no registry.",
        why="What was left behind can still log in.",
        advice="register it, or drop it after DROP OWNED BY in the databases that it has rights in",
    ),
    DoctorRule(
        code="TPD059", severity=_HIGH, title="A database changes what tenants' SQL means",
        says="Every session of the database {object} begins with {detail}.",
        why="It acts as another role, loads libraries, or reads SQL in another way than others expect.",
    ),
    DoctorRule(
        code="TPD060", severity=_WARNING, title="Tenants may connect to databases of the server itself",
        says="PUBLIC has {detail} on the database {object}.",
        why="In postgres and template1 tenants meet: names of all roles and databases, NOTIFY, and what is created "
        "in template1 is in each database that is created later.",
    ),
)  # fmt: skip

SERVER_RULES: Final = (*_LOOKING, *_ROLES, *_SETTINGS, *_DATABASES)
