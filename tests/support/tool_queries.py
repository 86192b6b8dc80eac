"""What do tools ask a server first? By their recorded SQL: lists of databases, and what comes before and behind."""

from __future__ import annotations

from typing import Final

__all__ = ["FIRST", "ITSELF", "LISTS"]

LISTS: Final = {
    "psql 15": """SELECT d.datname as "Name",
       pg_catalog.pg_get_userbyid(d.datdba) as "Owner",
       pg_catalog.pg_encoding_to_char(d.encoding) as "Encoding",
       d.datcollate as "Collate",
       d.datctype as "Ctype",
       pg_catalog.array_to_string(d.datacl, E'\\n') AS "Access privileges"
FROM pg_catalog.pg_database d
ORDER BY 1;""",
    "pgjdbc, Metabase": """SELECT datname AS TABLE_CAT FROM pg_catalog.pg_database
 WHERE datallowconn = true ORDER BY datname""",
    "DBeaver": """SELECT db.datname, db.oid,db.*
FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate OR db.datname ='postgres'
ORDER BY db.datname""",
    "pgAdmin": """SELECT
    db.datname as name, db.oid as did, ta.spcname as spcname, db.datallowconn, db.datistemplate AS is_template,
    pg_catalog.has_database_privilege(db.oid, 'CREATE') as cancreate, datdba as owner, descr.description
FROM
    pg_catalog.pg_database db
    LEFT OUTER JOIN pg_catalog.pg_tablespace ta ON db.dattablespace = ta.oid
    LEFT OUTER JOIN pg_catalog.pg_shdescription descr ON (
        db.oid=descr.objoid AND descr.classoid='pg_database'::regclass
    )
WHERE

db.oid > 16383::OID OR db.datname IN ('postgres', 'edb')

ORDER BY datname;
""",
    "many programs": "select datname from pg_database where datistemplate = false",
}
"""By tool; the name of a database is the first column."""

FIRST: Final = {
    "DBeaver's session": "SELECT current_schema(),session_user",
    "DBeaver's keywords": """select string_agg(word, ',') from pg_catalog.pg_get_keywords()
 where word <> ALL ('{a,abs,absolute}'::text[])""",
    "DBeaver's types": """SELECT t.oid,t.*,c.relkind,
    format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name
FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid
WHERE typnamespace=11 ORDER by t.oid LIMIT 5""",
    "DBeaver's schemas": """SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass
 ORDER BY nspname""",
    "pgAdmin's settings": """SET DateStyle=ISO; SET client_min_messages=notice;
 SELECT set_config('bytea_output','hex',false) FROM pg_show_all_settings() WHERE name = 'bytea_output';
 SET client_encoding='utf-8';""",
    "pgAdmin's role": """
SELECT
    roles.oid as id, roles.rolname as name, roles.rolsuper as is_superuser,
    CASE WHEN roles.rolsuper THEN true ELSE roles.rolcreaterole END as can_create_role,
    CASE WHEN roles.rolsuper THEN true ELSE roles.rolcreatedb END as can_create_db
FROM
    pg_catalog.pg_roles as roles
WHERE
    rolname = current_user""",
}
"""That have to be answered, whatever."""

ITSELF: Final = """
SELECT
    db.oid as did, db.datname, db.datallowconn, pg_encoding_to_char(db.encoding) AS serverencoding,
    has_database_privilege(db.oid, 'CREATE') as cancreate, datistemplate
FROM
    pg_catalog.pg_database db
WHERE db.datname = current_database()"""
"""pgAdmin's question where it is; there must be an answer."""
