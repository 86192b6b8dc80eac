-- Which addresses may have another account now, or none? Written by triggers on users tables, in the transaction of the
-- change, and read by `tenantproxy login sync`. PostgreSQL 14+. Running it again is the upgrade.
CREATE SCHEMA IF NOT EXISTS tenantproxy_login;
CREATE TABLE IF NOT EXISTS tenantproxy_login.changed (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  place  text NOT NULL,                                -- the schema of the users table
  tenant text,                                         -- of shared tables; NULL: all of the place
  email  text,                                         -- NULL: any
  at     timestamptz NOT NULL DEFAULT pg_catalog.now());
REVOKE ALL ON SCHEMA tenantproxy_login FROM PUBLIC;
REVOKE ALL ON tenantproxy_login.changed FROM PUBLIC;

-- Who owns a table says what runs when we write into it, or delete from it.
DO $$ BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles r ON r.oid IN (c.relowner, n.nspowner)
    WHERE n.nspname = 'tenantproxy_login' AND r.rolname <> current_user AND NOT r.rolsuper) THEN
    RAISE EXCEPTION 'the schema tenantproxy_login, or what is in it, belongs to another role'
      USING ERRCODE = '42501', HINT = 'look what is in it, and drop it: it is made again';
  END IF;
END $$;

-- Arguments: the column of addresses, and that of tenants or an empty text. It writes as the one who installed it: the
-- application may write users, and not this table. So nothing in it may be code of those who own the users table: `concat`
-- writes a value as COPY does; a cast, also one within to_jsonb, could be a function of theirs.
CREATE OR REPLACE FUNCTION tenantproxy_login.note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  reading text := format('SELECT left(concat(($1).%I), 400), '
    || CASE WHEN TG_ARGV[1] = '' THEN 'NULL' ELSE 'left(concat(($1).%I), 400)' END, TG_ARGV[0], TG_ARGV[1]);
  given text[] := array_remove(ARRAY[TG_ARGV[0], TG_ARGV[1]], '');
  address text;                                        -- of more than 320 characters is none
  whose text;
BEGIN
  IF TG_OP = 'TRUNCATE' OR (                           -- a column that has another name now is read as a whole
    SELECT count(*) FROM pg_attribute WHERE attrelid = TG_RELID AND attname = ANY (given) AND NOT attisdropped)
    < cardinality(given) THEN
    INSERT INTO tenantproxy_login.changed (place) VALUES (TG_TABLE_SCHEMA);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    EXECUTE reading INTO address, whose USING OLD;
    IF address <> '' THEN
      INSERT INTO tenantproxy_login.changed (place, tenant, email) VALUES (TG_TABLE_SCHEMA, nullif(whose, ''), address);
    END IF;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    EXECUTE reading INTO address, whose USING NEW;
    IF address <> '' THEN
      INSERT INTO tenantproxy_login.changed (place, tenant, email) VALUES (TG_TABLE_SCHEMA, nullif(whose, ''), address);
    END IF;
  END IF;
  RETURN NULL;
END $f$;
REVOKE ALL ON FUNCTION tenantproxy_login.note() FROM PUBLIC;
