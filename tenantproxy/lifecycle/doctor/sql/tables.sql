-- What is wrong with row tenants' tables besides their policies? $1: JSON; row_roles that row tenants' SQL runs as here, columns that name a tenant,
-- outside: schemas that belong to schema tenants.
WITH given AS MATERIALIZED (
  SELECT ARRAY(SELECT json_array_elements_text($1::text::json -> 'row_roles')) AS roles, ARRAY(SELECT json_array_elements_text($1::text::json -> 'columns')) AS columns,
    ARRAY(SELECT json_array_elements_text($1::text::json -> 'outside')) AS outside
), app AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name FROM pg_roles r, given g WHERE r.rolname = ANY (g.roles) AND NOT r.rolsuper
), ten AS MATERIALIZED (
  SELECT DISTINCT ON (c.oid) c.oid, n.nspname::text AS schema, format('%I.%I', n.nspname, c.relname) AS name, c.relowner, c.relkind, a.attnum, a.attname::text AS column
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped, given g
  WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy') AND n.nspname <> ALL (g.outside)
    AND a.attname = ANY (g.columns) AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY c.oid, array_position(g.columns, a.attname::text)
), uniq AS MATERIALIZED (
  SELECT t.schema, t.name, t.column, i.indexrelid, x.relname, k.conname, k.contype, i.indnkeyatts, i.indpred IS NOT NULL AS is_partial,
    EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conindid = i.indexrelid) AS is_referenced, -- those keys come first
    (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY o.n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY o(attnum, n)
       JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = o.attnum WHERE o.n <= i.indnkeyatts) AS columns,
    i.indnkeyatts = 1 AND i.indkey[0] <> 0 AND EXISTS (SELECT FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
      WHERE a.attrelid = t.oid AND a.attnum = i.indkey[0] AND (a.attidentity <> '' OR a.atttypid = 'uuid'::regtype
        OR pg_get_expr(f.adbin, f.adrelid) ~ '^nextval\(')) AS is_generated
  FROM ten t JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique AND i.indisvalid JOIN pg_class x ON x.oid = i.indexrelid
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u')
  WHERE NOT t.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND NOT x.relispartition
)
SELECT 'TPD095' AS code, t.schema, t.name AS object, a.name AS detail, ARRAY[format('ALTER TABLE %s OWNER TO %I', t.name, current_user)] AS sql
FROM ten t JOIN app a ON a.oid = t.relowner
UNION ALL
SELECT 'TPD097', n.nspname, format('%I.%I', n.nspname, s.relname), a.name || ' may ' || concat_ws(' and ', CASE WHEN x.reads THEN 'read' END, CASE WHEN x.sets THEN 'set' END),
  ARRAY[format('REVOKE SELECT, UPDATE ON SEQUENCE %I.%I FROM PUBLIC, %I', n.nspname, s.relname, a.name)]
FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace, given g, app a, LATERAL (
  SELECT has_sequence_privilege(a.oid, s.oid, 'SELECT') AS reads, has_sequence_privilege(a.oid, s.oid, 'UPDATE') AS sets) x
WHERE s.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy') AND n.nspname <> ALL (g.outside)
  AND (x.reads OR x.sets) AND s.relowner <> a.oid AND has_schema_privilege(a.oid, n.oid, 'USAGE')
UNION ALL
SELECT CASE WHEN is_generated THEN 'TPD099' ELSE 'TPD098' END, schema, format('%I.%I', schema, relname), format('%s of %s', columns, name),
  CASE WHEN columns IS NULL OR is_partial OR is_referenced THEN '{}' WHEN conname IS NOT NULL THEN ARRAY[
    format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s (%I, %s)', name, conname, conname,
      CASE contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, uniq.column, columns)]
  ELSE ARRAY[format('CREATE UNIQUE INDEX ON %s (%I, %s)', name, uniq.column, columns), format('DROP INDEX %I.%I', schema, relname)] END
FROM uniq
UNION ALL
SELECT 'TPD100', t.schema, format('%I on %s', k.conname, t.name), '', CASE WHEN k.confmatchtype = 'f' OR k.confupdtype IN ('n', 'd') THEN '{}' ELSE -- these take no list
  CASE WHEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.confrelid AND i.indisunique
      AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = cardinality(k.confkey) + 1 AND (i.indkey::int2[])[0:i.indnkeyatts - 1] @> (k.confkey || p.attnum))
    THEN '{}' ELSE ARRAY[format('ALTER TABLE %s ADD UNIQUE (%I, %s)', p.name, p.column, f.theirs)] END
  || ARRAY[format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I FOREIGN KEY (%I, %s) REFERENCES %s (%I, %s)%s%s%s%s%s', t.name, k.conname, k.conname,
    t.column, f.ours, p.name, p.column, f.theirs, CASE k.confdeltype WHEN 'c' THEN ' ON DELETE CASCADE' WHEN 'r' THEN ' ON DELETE RESTRICT'
      WHEN 'n' THEN format(' ON DELETE SET NULL (%s)', f.emptied) WHEN 'd' THEN format(' ON DELETE SET DEFAULT (%s)', f.emptied) ELSE '' END,
    CASE k.confupdtype WHEN 'c' THEN ' ON UPDATE CASCADE' WHEN 'r' THEN ' ON UPDATE RESTRICT' ELSE '' END, CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END,
    CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END, CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END)] END
FROM ten t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0 JOIN ten p ON p.oid = k.confrelid
CROSS JOIN LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY o.n) AS ours, string_agg(quote_ident(b.attname), ', ' ORDER BY o.n) AS theirs,
    string_agg(quote_ident(a.attname), ', ' ORDER BY o.n) FILTER (WHERE o.mine = ANY (coalesce(k.confdelsetcols, k.conkey))) AS emptied
  FROM unnest(k.conkey, k.confkey) WITH ORDINALITY o(mine, theirs, n) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = o.mine
  JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = o.theirs) f
WHERE NOT t.attnum = ANY (k.conkey)
UNION ALL
SELECT 'TPD101', t.schema, t.name, t.column, ARRAY[format('CREATE INDEX %sON %s (%I)', CASE t.relkind WHEN 'r' THEN 'CONCURRENTLY ' ELSE '' END, t.name, t.column)]
FROM ten t WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
    WHERE i.indrelid = t.oid AND i.indisvalid AND i.indkey[0] = t.attnum AND i.indpred IS NULL AND m.amname IN ('btree', 'hash'))
  AND NOT EXISTS (SELECT FROM pg_inherits h JOIN ten p ON p.oid = h.inhparent AND p.relkind = 'p' WHERE h.inhrelid = t.oid)
UNION ALL
SELECT 'TPD102', t.schema, i.indexrelid::regclass::text, '', ARRAY[format('DROP INDEX %s', i.indexrelid::regclass)]
FROM ten t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid AND x.relkind = 'i' WHERE NOT i.indisvalid
