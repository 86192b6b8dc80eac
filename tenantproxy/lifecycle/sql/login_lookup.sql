-- tenantproxy: which row tenants of this database have an account of one exact address? For the router's login role alone.
-- Run by a superuser in one transaction, again is the upgrade; lifecycle/lookup.py fills in the login role and the operator's
-- query, which is parsed here and now: what it names is bound to these very tables and functions, whatever search_path says later.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantproxy_lookup') THEN
    CREATE ROLE tenantproxy_lookup NOLOGIN NOINHERIT BYPASSRLS;      -- no user can become it, and it may read a few columns
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN             -- created concurrently from another database of the server
END $$;
DROP OWNED BY tenantproxy_lookup;                                    -- in this database: the former function and its grants
DO $$ BEGIN
  IF to_regprocedure('tenantproxy.login_candidates(text)') IS NOT NULL THEN
    RAISE EXCEPTION 'tenantproxy.login_candidates(text) is there and not ours' USING ERRCODE = '42710';
  END IF;
END $$;

CREATE FUNCTION tenantproxy.login_candidates(text) RETURNS TABLE (tenant_id text, user_id text)
LANGUAGE sql STABLE STRICT SECURITY DEFINER PARALLEL UNSAFE ROWS 2
SET search_path = pg_catalog, pg_temp
SET row_security = on
BEGIN ATOMIC
  SELECT DISTINCT ON (c.tenant_id) c.tenant_id::text, c.user_id::text
  FROM (
:lookup_query
  ) AS c
  WHERE length($1) BETWEEN 1 AND 320 AND c.tenant_id IS NOT NULL AND c.user_id IS NOT NULL
  ORDER BY c.tenant_id, c.user_id
  LIMIT 64;
END;
REVOKE ALL ON FUNCTION tenantproxy.login_candidates(text) FROM PUBLIC;
ALTER FUNCTION tenantproxy.login_candidates(text) OWNER TO tenantproxy_lookup;
GRANT EXECUTE ON FUNCTION tenantproxy.login_candidates(text) TO :"login";

-- Its owner may read the columns that the query reads, and no others.
DO $$
DECLARE
  needed record;
BEGIN
  FOR needed IN
    SELECT n.nspname, c.relname, string_agg(DISTINCT quote_ident(a.attname), ', ') AS columns
    FROM pg_depend d
    JOIN pg_class c ON c.oid = d.refobjid AND c.relnamespace <> 'pg_catalog'::regnamespace
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = 'tenantproxy.login_candidates(text)'::regprocedure
      AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
    GROUP BY 1, 2
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO tenantproxy_lookup', needed.nspname);
    EXECUTE format('GRANT SELECT (%s) ON %I.%I TO tenantproxy_lookup', needed.columns, needed.nspname, needed.relname);
  END LOOP;
END $$;
