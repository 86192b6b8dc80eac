-- Who owns what tenants must not touch? A role that no user can become, once per server.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantproxy_keeper') THEN
    CREATE ROLE tenantproxy_keeper NOLOGIN NOINHERIT;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN   -- created concurrently from another database of the server
END $$;
