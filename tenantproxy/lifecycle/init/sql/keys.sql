-- Which foreign keys are there, and what is unique in the tables that they lead to?
SELECT k.conname::text AS name, format('%I.%I', n.nspname, c.relname) AS table, format('%I.%I', tn.nspname, t.relname) AS target,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY o(num, at) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = o.num ORDER BY o.at) AS columns,
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY o(num, at) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = o.num ORDER BY o.at) AS target_columns,
  k.confdeltype::text AS on_delete, k.confupdtype::text AS on_update, k.confmatchtype::text AS match, k.condeferrable AS is_deferrable,
  k.condeferred AS is_deferred, k.convalidated AS is_valid,
  ARRAY(SELECT a.attname::text FROM unnest(k.confdelsetcols) o(num) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = o.num) AS nulled,
  (SELECT coalesce(json_agg(x.columns), '[]') FROM (SELECT (SELECT json_agg(a.attname) FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) u(num)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num) AS columns
    FROM pg_index i WHERE i.indrelid = k.confrelid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) x)::text AS unique_sets,
  ARRAY(SELECT a.attname::text FROM pg_partitioned_table p, unnest(p.partattrs::int2[]) u(num)
    JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num WHERE p.partrelid = k.confrelid) AS partition_key
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantproxy')
ORDER BY 2, 1
