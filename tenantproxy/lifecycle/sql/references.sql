-- tenantproxy: references. Rows that say through another table whose they are (docs/decisions/127) are looked at once more behind their foreign key.
-- At READ COMMITTED their policy is asked at the start of a statement and the key at its end; the row that they refer to may be another tenant's by then.
-- Comes after keeper.sql, in its transaction. PostgreSQL 15+.
GRANT tenantproxy_keeper TO CURRENT_USER;
SET LOCAL ROLE tenantproxy_keeper;

-- A trigger behind those of the foreign key, which hold the row that is referred to until the end of the transaction: the look of a VOLATILE function sees
-- what was committed until then. Its arguments: the column, the table that it refers to and the key there; the last two quoted. It asks with the rights of
-- the session, to which the policies of that table show its own tenant's rows alone. Who owns the table could take the trigger away, and is let through.
CREATE OR REPLACE FUNCTION tenantproxy.check_reference() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY INVOKER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  is_own boolean;
BEGIN
  IF NOT row_security_active(TG_ARGV[1]) OR pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
    RETURN NULL;
  END IF;
  EXECUTE format('SELECT ($1).%1$I IS NULL OR EXISTS (SELECT FROM %2$s parent WHERE parent.%3$s = ($1).%1$I)', TG_ARGV[0], TG_ARGV[1], TG_ARGV[2])
    INTO is_own USING NEW;
  IF is_own IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = '42501', TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA, COLUMN = TG_ARGV[0],
      MESSAGE = format('tenantproxy: the row that %I of %I refers to is no longer this tenant''s', TG_ARGV[0], TG_TABLE_NAME);
  END IF;
  RETURN NULL;
END $f$;
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
