"""What can the role of a tenant's session reach that is not the tenant's alone? One look at the catalogue. Pure.

The query runs on the connection itself, before a tenant has it: in a transaction whose search_path is pg_catalog alone,
so that no name means anything else and policies are printed with every name in full.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tenantproxy.errors import Exposure, UnprotectedRelations
from tenantproxy.isolation.policies import COMMANDS, FAITHFUL, Policy, Reference, TenantForm, open_commands
from tenantproxy.model import PoolKey, quote_identifier

__all__ = ["PIN_PATH", "REACH", "Reach", "argument", "exposures", "judged", "parse", "refusal"]

# The planner takes the question for far dearer than it is, and compiling it would take longer than to answer it.
PIN_PATH: Final = (
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
    " pg_catalog.set_config('jit', 'off', true)"
)

# Roles: who the session can become, itself first of all. Shown: what views and SQL functions in sight read with their
# caller's rights; no USAGE of its schema is asked for then. A relation is open when the catalogue alone says so; of
# these at most 100 are told. The others are tables whose policies have to be read.
# Given: what is in a schema that the role of another tenant owns, who alone lets others look into it (decision 108).
# Ruled: views and tables with rules there, and those behind them; each once, as many may stand behind one another.
# Behind: what these use with the rights of `as`, who owns them, or 0 for the caller. They are not given where one of
# these relations is no tenant's own either, nor where their owner is no tenant: what they read of PostgreSQL's own
# tables is not in the catalogue. No function here may lock a relation (as pg_get_ruledef does): who gives one may keep
# its lock for as long as it likes. An action of type 7 (CMD_NOTHING since PostgreSQL 15) is that of DO INSTEAD NOTHING.
# References: no policy is asked about what a foreign key writes itself (a default, the key that another one cascades),
# and tables that inherit from theirs are not held to it. So a column that is compared with the tenant is moved where it
# follows one that the role writes and that no policy of its table compares so, or is set to a default that is not ours.
# Held: a reference is looked at once more behind its key (decision 127); of parts, in each.
REACH: Final = """
WITH RECURSIVE given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'schemas')) AS schemas,
         ARRAY(SELECT json_array_elements_text($1::text::json -> 'relations')) AS relations,
         ARRAY(SELECT json_array_elements_text($1::text::json -> 'common_schemas')) AS common_schemas,
         ARRAY(SELECT json_array_elements_text($1::text::json -> 'common_relations')) AS common_relations,
         ARRAY(SELECT json_array_elements_text($1::text::json -> 'faithful')) AS faithful,
         ARRAY(SELECT json_array_elements_text($1::text::json -> 'path')) AS path,
         EXISTS (SELECT FROM pg_collation l WHERE NOT l.collisdeterministic) AS has_loose
), roles AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name, r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolreplication
    OR r.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
      'pg_read_all_stats', 'pg_signal_backend', 'pg_create_subscription') AS is_mighty
  FROM pg_roles r WHERE pg_has_role(r.oid, 'MEMBER')
), schemas AS MATERIALIZED (
  SELECT n.oid, n.nspname::text AS name FROM pg_namespace n
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND EXISTS (SELECT FROM roles r WHERE has_schema_privilege(r.oid, n.oid, 'USAGE'))
), tenants AS NOT MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name, s.description AS sign FROM pg_roles r JOIN pg_shdescription s
    ON s.objoid = r.oid AND s.classoid = 'pg_authid'::regclass AND s.description LIKE 'tenantproxy: made for %'
  WHERE NOT (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolreplication)
    AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
), members AS MATERIALIZED (
  SELECT d.objid AS oid, min(e.extname::text) AS extension FROM pg_extension e JOIN pg_depend d ON d.refobjid = e.oid
    AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass GROUP BY 1
), shown (class, oid) AS (
  SELECT 'pg_class'::regclass::oid, c.oid FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace WHERE c.relkind = 'v'
  UNION SELECT 'pg_proc'::regclass::oid, p.oid FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace
    WHERE p.prosqlbody IS NOT NULL
  UNION SELECT d.refclassid, d.refobjid FROM shown s
    LEFT JOIN pg_class v ON s.class = 'pg_class'::regclass AND v.oid = s.oid AND v.relkind = 'v'
      AND EXISTS (SELECT FROM pg_options_to_table(v.reloptions) o
        WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
    LEFT JOIN pg_rewrite w ON w.ev_class = v.oid
    LEFT JOIN pg_proc p ON s.class = 'pg_proc'::regclass AND p.oid = s.oid AND NOT p.prosecdef
    JOIN pg_depend d ON d.classid = CASE WHEN p.oid IS NULL THEN 'pg_rewrite'::regclass ELSE 'pg_proc'::regclass END
      AND d.objid = coalesce(p.oid, w.oid)
    WHERE d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
), within AS MATERIALIZED (
  SELECT c.oid, n.name, n.oid AS space FROM schemas n JOIN pg_class c ON c.relnamespace = n.oid
  UNION SELECT c.oid, n.nspname::text, n.oid FROM shown s
    JOIN pg_class c ON c.oid = s.oid AND s.class = 'pg_class'::regclass
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
), givers AS MATERIALIZED (
  SELECT n.oid AS space, t.* FROM (SELECT DISTINCT w.space FROM within w) s JOIN pg_namespace n ON n.oid = s.space
    JOIN tenants t ON t.oid = n.nspowner CROSS JOIN given g
  WHERE n.nspname <> ALL (g.path) AND NOT pg_has_role(t.oid, 'MEMBER')
    AND NOT EXISTS (SELECT FROM pg_foreign_table f JOIN pg_class c ON c.oid = f.ftrelid
      WHERE c.relowner = t.oid OR c.relnamespace = n.oid)
), ruled (oid) AS (
  SELECT c.oid FROM within n JOIN givers v ON v.space = n.space JOIN pg_class c ON c.oid = n.oid AND c.relhasrules
  UNION SELECT u.oid FROM ruled b JOIN pg_rewrite w ON w.ev_class = b.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class u ON u.oid = d.refobjid AND u.relhasrules
    JOIN pg_namespace n ON n.oid = u.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
), behind AS MATERIALIZED (
  SELECT u.oid, c.oid AS by, x."as" FROM ruled b JOIN pg_class c ON c.oid = b.oid
    CROSS JOIN LATERAL (SELECT DISTINCT CASE WHEN w.ev_type = '1' AND c.relkind = 'v' AND EXISTS (
        SELECT FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker'
          AND o.option_value::boolean) THEN 0 ELSE c.relowner END AS "as", d.refobjid AS reads
      FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
      WHERE w.ev_class = c.oid) x
    JOIN pg_class u ON u.oid = x.reads AND u.relkind IN ('r', 'p', 'v', 'm', 'f')
  WHERE CASE x."as" WHEN 0 THEN EXISTS (SELECT FROM roles r WHERE has_table_privilege(r.oid, u.oid, 'DELETE')
      OR has_any_column_privilege(r.oid, u.oid, 'SELECT, INSERT, UPDATE'))
    ELSE has_table_privilege(x."as", u.oid, 'DELETE')
      OR has_any_column_privilege(x."as", u.oid, 'SELECT, INSERT, UPDATE') END
), not_given (oid) AS (
  SELECT b.by FROM behind b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN tenants t ON t.oid = b."as" CROSS JOIN given g
  WHERE n.nspname <> ALL (g.schemas || g.common_schemas) AND (t.oid IS NULL OR c.relowner <> t.oid)
    AND format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname::text, '"', '""'))
      <> ALL (g.relations || g.common_relations)
    AND NOT (b."as" = 0 AND n.oid IN (SELECT o.oid FROM schemas o))
    AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM tenants o WHERE o.oid = n.nspowner)
    AND (t.sign IS NULL OR obj_description(n.oid, 'pg_namespace') IS DISTINCT FROM t.sign)
  UNION SELECT b.oid FROM ruled b JOIN pg_class c ON c.oid = b.oid
  WHERE c.relowner NOT IN (SELECT t.oid FROM tenants t)
  UNION SELECT b.by FROM not_given o JOIN behind b ON b.oid = o.oid
), relations AS MATERIALIZED (
  SELECT c.oid, n.name AS schema,
    CASE WHEN c.oid NOT IN (SELECT o.oid FROM not_given o) THEN v.name END AS giver,
    c.relname::text AS name, c.relkind::text AS kind, x.rights,
    c.relkind IN ('r', 'p') AND c.relrowsecurity AS secured, c.relispartition AS is_partition,
    c.relkind = 'r' AND c.relhassubclass AS has_children,
    CASE WHEN c.relkind = 'v' THEN EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
      WHERE o.option_name = 'security_invoker' AND o.option_value::boolean) ELSE false END AS is_invoker,
    CASE WHEN c.relhasrules THEN ARRAY(SELECT w.rulename::text FROM pg_rewrite w
      WHERE w.ev_class = c.oid AND w.ev_type <> '1' AND w.ev_enabled <> 'D'
        AND NOT (w.is_instead AND w.ev_action::text ~ '^[(][{]QUERY :commandType 7 ')) ELSE '{}' END AS rules
  FROM within n JOIN pg_class c ON c.oid = n.oid LEFT JOIN givers v ON v.space = n.space CROSS JOIN given g
  CROSS JOIN LATERAL (SELECT ARRAY(
    SELECT p FROM unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) p
    WHERE EXISTS (SELECT FROM roles r WHERE has_any_column_privilege(r.oid, c.oid, p))
    UNION ALL
    SELECT p FROM unnest('{DELETE,TRUNCATE,TRIGGER}'::text[]) p
    WHERE EXISTS (SELECT FROM roles r WHERE has_table_privilege(r.oid, c.oid, p))) AS rights OFFSET 0) x
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.name <> ALL (g.schemas) AND x.rights <> '{}'
    AND format('"%s"."%s"', replace(n.name, '"', '""'), replace(c.relname::text, '"', '""')) <> ALL (g.relations)
), described AS MATERIALIZED (
  SELECT r.*, x.is_open, row_number() OVER (PARTITION BY r.giver IS NULL, x.is_open ORDER BY r.schema, r.name) AS number
  FROM relations r
    CROSS JOIN LATERAL (SELECT r.giver IS NOT NULL OR NOT r.secured AND NOT r.is_invoker AS is_open) x
)
SELECT json_build_object(
  'role', current_user::text,
  'mighty', ARRAY(SELECT r.name FROM roles r WHERE r.is_mighty ORDER BY 1),
  'open', (SELECT count(*) FROM described WHERE is_open AND giver IS NULL),
  'relations', (SELECT json_agg(json_build_object(
    'schema', r.schema, 'name', r.name, 'kind', r.kind, 'rights', r.rights, 'secured', r.secured,
    'partition', r.is_partition, 'invoker', r.is_invoker, 'rules', r.rules, 'giver', r.giver,
    'parental', r.secured AND NOT r.has_children AND r.giver IS NULL, 'written', format('%I.%I', r.schema, r.name),
    'references', CASE WHEN r.secured THEN ARRAY(
      SELECT json_build_array(quote_ident(a.attname), quote_ident(b.attname), format('%I.%I', n.nspname, t.relname),
        NOT r.rights && '{INSERT,UPDATE}' OR EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
          JOIN pg_namespace m ON m.oid = f.pronamespace
          WHERE g.tgrelid = r.oid AND g.tgname > 'RI_ConstraintTrigger_d' AND g.tgtype = 21 AND g.tgenabled = 'A'
            AND NOT g.tgdeferrable AND g.tgqual IS NULL AND cardinality(g.tgattr::int2[]) = 0
            AND m.nspname = 'tenantproxy' AND f.proname = 'check_reference' AND f.provolatile = 'v' AND NOT f.prosecdef
            AND g.tgargs = convert_to(a.attname, getdatabaseencoding()) || '\\x00'
              || convert_to(format('%I.%I', n.nspname, t.relname), getdatabaseencoding()) || '\\x00'
              || convert_to(quote_ident(b.attname), getdatabaseencoding()) || '\\x00'
            AND NOT EXISTS (
              WITH RECURSIVE clones AS (
                SELECT o.oid, o.tgenabled FROM pg_trigger o WHERE o.tgparentid = g.oid
                UNION ALL SELECT o.oid, o.tgenabled FROM clones c JOIN pg_trigger o ON o.tgparentid = c.oid)
              SELECT FROM clones c WHERE c.tgenabled <> 'A')))
      FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
      JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
      JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace n ON n.oid = t.relnamespace
      WHERE k.contype = 'f' AND k.conrelid = r.oid AND k.confrelid <> r.oid AND cardinality(k.conkey) = 1
        AND k.convalidated AND NOT k.condeferrable AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
        AND NOT r.has_children AND NOT EXISTS (
          WITH RECURSIVE parts (oid) AS (
            SELECT k.oid UNION SELECT o.oid FROM parts s JOIN pg_constraint o ON o.conparentid = s.oid)
          SELECT FROM parts s JOIN pg_trigger g ON g.tgconstraint = s.oid WHERE g.tgenabled IN ('D', 'R')
          UNION ALL SELECT FROM pg_constraint o
          WHERE o.contype = 'f' AND o.conrelid = r.oid AND k.conkey[1] = ANY (o.conkey)
            AND ('d' IN (o.confupdtype, o.confdeltype)
              OR o.confupdtype = 'c' AND o.oid NOT IN (SELECT s.oid FROM parts s)))
      ORDER BY k.conname) ELSE '{}' END,
    'extension', (SELECT m.extension FROM members m WHERE m.oid = r.oid),
    'policies', CASE WHEN r.secured AND r.giver IS NULL THEN (SELECT json_agg(json_build_object(
      'name', p.polname::text, 'permissive', p.polpermissive, 'command', p.polcmd::text,
      'for_all_roles', 0 = ANY (p.polroles), 'using', pg_get_expr(p.polqual, p.polrelid),
      'check', CASE WHEN p.polwithcheck::text IS DISTINCT FROM p.polqual::text
        THEN pg_get_expr(p.polwithcheck, p.polrelid) END,
      'calls_others', EXISTS (SELECT FROM pg_depend d JOIN pg_proc f ON f.oid = d.refobjid
        JOIN pg_namespace n ON n.oid = f.pronamespace
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
          AND n.nspname <> 'tenantproxy'),
      'is_loose', CASE WHEN (SELECT g.has_loose FROM given g) THEN EXISTS (SELECT FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        JOIN pg_collation l ON l.oid = a.attcollation
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
          AND NOT l.collisdeterministic) ELSE false END,
      'follows', ARRAY(WITH RECURSIVE followed AS (
        SELECT k.confrelid AS rel, u.other AS num FROM pg_constraint k
          CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS u (own, other)
          JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = k.conrelid AND d.refobjsubid = u.own
        WHERE k.contype = 'f' AND k.conrelid = r.oid AND k.confupdtype = 'c'
        UNION SELECT k.confrelid, u.other FROM followed f JOIN pg_constraint k ON k.conrelid = f.rel
          AND k.contype = 'f' AND k.confupdtype = 'c'
          CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS u (own, other) WHERE u.own = f.num)
        SELECT json_build_array(format('%I.%I', n.nspname, t.relname), quote_ident(a.attname)) FROM followed f
          JOIN pg_class t ON t.oid = f.rel JOIN pg_namespace n ON n.oid = t.relnamespace
          JOIN pg_attribute a ON a.attrelid = f.rel AND a.attnum = f.num
        WHERE EXISTS (SELECT FROM roles o WHERE has_column_privilege(o.oid, f.rel, f.num, 'UPDATE'))),
      'is_moved', EXISTS (SELECT FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey) AS u (own)
        JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = k.conrelid AND d.refobjsubid = u.own
        WHERE k.contype = 'f' AND k.conrelid = r.oid AND 'd' IN (k.confupdtype, k.confdeltype)
          AND EXISTS (SELECT FROM pg_attrdef f
            WHERE f.adrelid = r.oid AND f.adnum = u.own AND NOT EXISTS (SELECT FROM pg_depend e
              JOIN pg_proc c ON c.oid = e.refobjid JOIN pg_namespace m ON m.oid = c.pronamespace
              WHERE e.classid = 'pg_attrdef'::regclass AND e.objid = f.oid AND e.refclassid = 'pg_proc'::regclass
                AND m.nspname = 'tenantproxy'))),
      'keeping', ARRAY(WITH RECURSIVE named AS (
        SELECT y.oid AS top, y.oid FROM pg_depend d JOIN pg_type y ON y.oid = d.refobjid
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_type'::regclass
        UNION SELECT b.top, y.typbasetype FROM named b JOIN pg_type y ON y.oid = b.oid WHERE y.typtype = 'd')
        SELECT format_type(b.top, NULL) FROM named b JOIN pg_type y ON y.oid = b.oid
          LEFT JOIN pg_collation l ON l.oid = y.typcollation
        GROUP BY b.top HAVING bool_and(coalesce(l.collisdeterministic, true) AND CASE y.typtype WHEN 'e' THEN true
          WHEN 'd' THEN y.typtypmod = -1 ELSE format_type(y.oid, NULL) = ANY (g.faithful) END))
      ) ORDER BY p.polname)
      FROM pg_policy p CROSS JOIN given g WHERE p.polrelid = r.oid
        AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM roles o WHERE o.oid = ANY (p.polroles)))) END
    ) ORDER BY r.schema, r.name) FROM described r WHERE NOT r.is_open OR r.number <= 100),
  'definers', ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace
    WHERE p.prosecdef AND n.name <> 'tenantproxy' AND (
      EXISTS (SELECT FROM roles r WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE'))
      OR EXISTS (SELECT FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE t.tgfoid = p.oid))
    ORDER BY 1 LIMIT 100)
)::text
"""
"""$1: JSON, `schemas` and `relations` (quoted, `"s"."t"`) that are not looked at, `common_schemas` and
`common_relations` that schema tenants may share and so show others, `faithful` types, `path`: schemas in which the
session finds names by itself, of which none is given.

One row with one text, JSON.
"""

_TOLD: Final = 20
_KINDS: Final = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}
_BESIDES_ROWS: Final = ("TRUNCATE", "REFERENCES", "TRIGGER")  # what no policy holds
_RIGHTS: Final = (*COMMANDS, *_BESIDES_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachedRelation:
    """What the role may do something with. `kind`: a letter of pg_class.relkind; `secured`: row security is enabled.

    `giver`: the role of another tenant, whose own it is and who let others look at it; its policies are not read.
    `parental`: its policies hold for all rows whose keys it has, so that others may refer to it for whose they are.
    `written`: its name as PostgreSQL writes it. `references`: its foreign keys of one column that hold for all rows and
    are looked at once more behind each write; `unseen`: those that are not.
    """

    schema: str
    name: str
    kind: str
    rights: tuple[str, ...]
    secured: bool
    partition: bool
    invoker: bool
    rules: tuple[str, ...]
    giver: str | None
    extension: str | None
    policies: tuple[Policy, ...]
    parental: bool = False
    written: str = ""
    references: tuple[Reference, ...] = ()
    unseen: tuple[Reference, ...] = ()

    @property
    def label(self) -> str:
        """Its name as SQL takes it: quoted where it has to be."""
        return f"{_written(self.schema)}.{_written(self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What REACH answered. `mighty`: roles, own one included, that nothing holds back.

    `open`: how many relations there are whose rows no policy guards at all; of these the first 100 are in `relations`.
    `definers`: SECURITY DEFINER functions that the role may call. What they do is not looked into.
    """

    role: str
    mighty: tuple[str, ...]
    open: int
    relations: tuple[ReachedRelation, ...]
    definers: tuple[str, ...]


def argument(
    names: Iterable[tuple[str, str | None]],
    *,
    path: Iterable[str] = (),
    common: Iterable[tuple[str, str | None]] = (),
) -> str:
    """The parameter of REACH: (schema, relation) that are not looked at; without a relation, all of a schema.

    `path`: in which schemas the session finds names that say none. `common`: what schema tenants may share, as `names`.
    """
    schemas, relations = _apart(names)
    common_schemas, common_relations = _apart(common)
    return json.dumps(
        {
            "schemas": schemas,
            "relations": relations,
            "common_schemas": common_schemas,
            "common_relations": common_relations,
            "faithful": sorted(FAITHFUL),
            "path": list(path),
        }
    )


def _apart(names: Iterable[tuple[str, str | None]]) -> tuple[list[str], list[str]]:
    """Whole schemas, and relations, quoted."""
    names = list(names)
    return (
        [schema for schema, relation in names if relation is None],
        [
            f"{quote_identifier(schema)}.{quote_identifier(relation)}"
            for schema, relation in names
            if relation is not None
        ],
    )


def parse(text: str) -> Reach:
    """The answer of REACH as values."""
    given: Mapping[str, Any] = json.loads(text)
    return Reach(
        role=given["role"],
        mighty=tuple(given["mighty"]),
        open=given["open"],
        relations=tuple(_relation(each) for each in given["relations"] or ()),
        definers=tuple(given["definers"]),
    )


def _relation(given: Mapping[str, Any]) -> ReachedRelation:
    values = dict(given)
    policies = tuple(
        Policy(**{**policy, "keeping": tuple(policy["keeping"]), "follows": tuple(map(tuple, policy["follows"]))})
        for policy in values.pop("policies") or ()
    )
    rights, rules = tuple(values.pop("rights")), tuple(values.pop("rules"))
    keys: list[tuple[str, str, str, bool]] = values.pop("references", [])
    references, unseen = (tuple(Reference(*each[:3]) for each in keys if each[3] is held) for held in (True, False))
    return ReachedRelation(
        **values, rights=rights, rules=rules, policies=policies, references=references, unseen=unseen
    )


def judged(reach: Reach, form: TenantForm) -> Reach:
    """The same; its policies know through which references a row is surely one tenant's.

    Those to a table in sight of the role whose own rows are: by a column, for everything that the role may do there.
    And whether what they follow may be written to be another tenant's.
    """
    by_name = {each.written: each for each in reach.relations}
    reach = replace(reach, relations=tuple(_following(each, by_name, form) for each in reach.relations))
    parents = {each.written for each in reach.relations if each.parental and _is_kept(each, form)}
    return replace(reach, relations=tuple(_referring(each, parents, form) for each in reach.relations))


def _is_kept(relation: ReachedRelation, form: TenantForm) -> bool:
    commands = tuple(right for right in relation.rights if right in COMMANDS)
    return not relation.rules and not open_commands(relation.policies, commands, form)


def _following(relation: ReachedRelation, by_name: Mapping[str, ReachedRelation], form: TenantForm) -> ReachedRelation:
    if not any(each.follows for each in relation.policies):
        return relation
    return replace(
        relation,
        policies=tuple(
            replace(each, is_moved=True)
            if not all(_is_followed(by_name.get(t), c, form) for t, c in each.follows)
            else each
            for each in relation.policies
        ),
    )


def _is_followed(relation: ReachedRelation | None, column: str, form: TenantForm) -> bool:
    """Whether all that the role may write into `column` there is its tenant."""
    return (
        relation is not None
        and relation.secured
        and not relation.rules
        and not open_commands(relation.policies, ("UPDATE",), form, column)
    )


def _referring(relation: ReachedRelation, parents: set[str], form: TenantForm) -> ReachedRelation:
    # Who is not signed may say in the middle of a statement that it is another one.
    references = relation.references if form.is_signed else (*relation.references, *relation.unseen)
    through = tuple(each for each in references if each.table in parents)
    if not through:
        return relation
    return replace(relation, policies=tuple(replace(each, through=through) for each in relation.policies))


def exposures(reach: Reach, *, form: TenantForm) -> Iterator[Exposure]:
    """Everything that one tenant's session could use to get at another's rows, with what closes it. What a tenant gave
    of its own is not among it.
    """
    reach = judged(reach, form)
    for role in reach.mighty:
        yield _of_role(role, reach.role)
    for relation in reach.relations:
        if relation.giver is None:
            yield from _of_relation(relation, reach.role, form)


def _of_role(role: str, own: str) -> Exposure:
    what = "may create roles, replicate, read files or statistics of all, or pass row-level security"
    if role == own:
        return Exposure(what=f"role {role}", why=what, fix=f"ALTER ROLE {_written(role)} NOCREATEROLE NOREPLICATION")
    fix = f"REVOKE {_written(role)} FROM {_written(own)}"
    return Exposure(what=f"role {role}", why=f"the role {own!r} can become it, and it {what}", fix=fix)


def _of_relation(relation: ReachedRelation, role: str, form: TenantForm) -> Iterator[Exposure]:
    commands = tuple(right for right in relation.rights if right in COMMANDS)
    if commands and not relation.invoker:
        found = _unguarded(relation, role) if not relation.secured else _badly_guarded(relation, commands, form)
        if found is not None:
            yield found
    extra = [right for right in relation.rights if right in _BESIDES_ROWS]
    if extra:
        rights = ", ".join(extra)
        yield Exposure(
            what=_what(relation),
            why=f"the role may {rights}, which no policy holds",
            fix=f"REVOKE {rights} ON {relation.label} FROM {_written(role)}",
        )
    if relation.rules and set(relation.rights) & {"INSERT", "UPDATE", "DELETE"}:
        yield Exposure(
            what=_what(relation),
            why=f"the actions of its rule {relation.rules[0]!r} run with the rights of its owner",
            fix=f"DROP RULE {_written(relation.rules[0])} ON {relation.label}",
        )


def _unguarded(relation: ReachedRelation, role: str) -> Exposure:
    if relation.kind in ("r", "p"):
        if relation.extension is None and relation.schema != "tenantproxy":
            return Exposure(what=_what(relation), why="it has no row-level security", fix=_install(relation))
        why = "every tenant shares it"
        if relation.schema == "tenantproxy":
            fix = "give row tenants a role of their own (`role`, [tenant_roles]), or keep the main database apart"
            return Exposure(what=_what(relation), why="it is the router's own", fix=fix)
    elif relation.kind == "v":
        why = "it reads with the rights of its owner"
        if relation.extension is None:
            fix = f"ALTER VIEW {relation.label} SET (security_invoker = true)"
            return Exposure(what=_what(relation), why=why, fix=fix)
    else:
        why = "policies do not reach it"
    rights = ", ".join(right for right in _RIGHTS if right in relation.rights)
    return Exposure(
        what=_what(relation), why=why, fix=f"REVOKE {rights} ON {relation.label} FROM {_written(role)}, PUBLIC"
    )


def _badly_guarded(relation: ReachedRelation, commands: tuple[str, ...], form: TenantForm) -> Exposure | None:
    reasons = open_commands(relation.policies, commands, form)
    if not reasons:
        return None
    why = "; ".join(dict.fromkeys(reasons))
    return Exposure(what=_what(relation), why=why, fix=_install(relation))


def _install(relation: ReachedRelation) -> str:
    return f"tenantproxy install --table {relation.label} --column tenant_id"


def _what(relation: ReachedRelation) -> str:
    kind = "partition" if relation.partition else _KINDS[relation.kind]
    return f"{kind} {relation.label}" + (f" of the extension {relation.extension}" if relation.extension else "")


def _written(name: str) -> str:
    """A name in a command to copy: quoted where it has to be."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return name if plain else quote_identifier(name)


def refusal(reach: Reach, key: PoolKey, *, form: TenantForm) -> UnprotectedRelations | None:
    """Why connections of this pool must not serve; None: all that its role reaches is its tenant's."""
    found = list(exposures(reach, form=form))
    if not found:
        return None
    unseen = max(
        0, reach.open - sum(1 for each in reach.relations if each.giver is None and not (each.secured or each.invoker))
    )
    count = len(found) + unseen
    told = [f"{each.what} ({each.why})" for each in found[:_TOLD]]
    more = f"; and {count - len(told)} more" if count > len(told) else ""
    return UnprotectedRelations(
        _message(key),
        detail=f"server {key.server!r}, database {key.database!r}, role {reach.role!r}: {'; '.join(told)}{more}",
        hint=_hint(key, found),
        exposures=found,
        count=count,
    )


def _message(key: PoolKey) -> str:
    if key.shared:
        return "row tenants of this database could reach each other's rows"
    return f"the tenant of the schema {key.schema!r} could reach what is not its own"


def _hint(key: PoolKey, found: list[Exposure]) -> str:
    fixes = list(dict.fromkeys(each.fix for each in found))
    shown = "; ".join(fixes[:3]) + ("; ..." if len(fixes) > 3 else "")
    if key.shared:
        return f"run: {shown}; or name in [row] unprotected what all tenants may share"
    return (
        "give the tenant a role of its own (`tenantproxy install --roles`), or REVOKE USAGE ON SCHEMA of the others;"
        " or name in [schema] common what all tenants may share; [schema] shared_role = true switches this check off"
    )
