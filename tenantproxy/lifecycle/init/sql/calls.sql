-- Would reading the table $1, or casting to and from the types of its columns, call a function of a role that is not trusted with the rights of
-- who reads? Functions of indexes and statistics are called by the planner, those of casts and domains by the query.
WITH RECURSIVE looked (oid) AS (
  SELECT $1::text::regclass::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN looked l ON i.inhparent = l.oid
), types (oid) AS (
  SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
  UNION SELECT y.typbasetype FROM types t JOIN pg_type y ON y.oid = t.oid AND y.typtype = 'd'
), called (oid) AS (
  SELECT CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
  FROM pg_depend d LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('i', 'I', 'p')
  LEFT JOIN pg_statistic_ext x ON d.classid = 'pg_statistic_ext'::regclass AND x.oid = d.objid
  LEFT JOIN pg_index i ON i.indexrelid = c.oid
  LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
  WHERE coalesce(i.indrelid, c.oid, x.stxrelid) IN (SELECT l.oid FROM looked l) OR k.contypid IN (SELECT t.oid FROM types t)
  UNION SELECT k.castfunc FROM pg_cast k WHERE k.castsource IN (SELECT t.oid FROM types t) OR k.casttarget IN (SELECT t.oid FROM types t)
)
SELECT EXISTS (SELECT FROM called c JOIN pg_proc p ON p.oid = c.oid JOIN pg_roles r ON r.oid = p.proowner
  WHERE NOT r.rolsuper AND r.rolname <> current_user)
