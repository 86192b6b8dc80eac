-- tenantproxy: trusted setting, the other form of [row]. The tenant of a session stands in `backtrace_functions`, which only superusers may set, and
-- roles with GRANT SET ON PARAMETER: the keeper's trust() alone. Policies read it by a function that has no rights of its own. Comes after turns.sql
-- (same keeper, keys, fence and nonce), in its transaction; lifecycle/trusted.py has seen to the grant before. PostgreSQL 15+.
-- Value: <valid until, 10 digits of unix time><tenant with '-' as blank and '.' as tab>. It begins with a digit, so no C function bears that name
-- and no backtrace is ever logged; a list of C functions that an operator puts there is never a tenant.
GRANT tenantproxy_keeper TO CURRENT_USER;
SET LOCAL ROLE tenantproxy_keeper;

CREATE UNLOGGED SEQUENCE IF NOT EXISTS tenantproxy.trusted_mark MINVALUE -9223372036854775808 START 1;   -- whom trust() let in last, salted with the nonce
REVOKE ALL ON SEQUENCE tenantproxy.trusted_mark FROM PUBLIC;

-- As enter(), over 'v2|first|...' or 'v2|chained|...'. Who signs the second says that no rollback can bring the former tenant's value back: the session
-- was reset in a transaction that is over. Else this must be the first of its transaction, as in one simple query.
CREATE OR REPLACE FUNCTION tenantproxy.trust(tenant text, kid integer, until bigint, proof text, prepared bigint, chained boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  nonce bigint := currval('tenantproxy.session_nonce');
  ends  bigint := until & 4294967295;          -- as in enter()
  held  text   := current_setting('backtrace_functions');
  value text   := ends || translate(tenant, '-.', E' \t');
  mac   bytea;
  ours  boolean;
  done  boolean;                                -- what the functions of one row return is not NULL, so each of them is called
BEGIN
  SELECT sha256(k.opad || sha256(k.ipad || convert_to(concat_ws('|', 'v2', CASE WHEN chained THEN 'chained' ELSE 'first' END, current_database(),
                                                                pg_backend_pid(), nonce, until, tenant), 'UTF8'))),
      (SELECT count(*) >= prepared AND NOT coalesce(bool_or(p.from_sql), false) FROM pg_prepared_statement() p)
    INTO mac, ours FROM tenantproxy.context_key k   -- the key stays a column: a variable would show in debug_print_plan
    WHERE k.kid = trust.kid AND k.not_after > now() AND ends > date_part('epoch', now()) AND length(ends::text) = 10
      AND (until = ends OR ends <= date_part('epoch', now()) + (until >> 32) + 2)
      AND tenant <> '' AND tenant = translate(substr(value, 11), E' \t', '-.')   -- a blank would be read back as another character
      AND NOT EXISTS (SELECT FROM tenantproxy.fenced_tenant f WHERE f.tenant_id = tenant);
  IF mac IS NULL OR sha256(substr(mac, 1, 16)) IS DISTINCT FROM sha256(decode(proof, 'hex')) THEN   -- hashed on both sides: comparing bytes tells nothing
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantproxy: the proof of tenancy is not valid on this connection';
  ELSIF chained IS NOT TRUE AND statement_timestamp() <> transaction_timestamp() THEN   -- a rollback would bring back who was here
    RAISE EXCEPTION USING ERRCODE = '25001', MESSAGE = 'tenantproxy: a tenant cannot be entered inside a transaction';
  END IF;
  nonce := ('x' || encode(substr(mac, 17, 8), 'hex'))::bit(64)::bigint;
  IF held COLLATE "C" BETWEEN '0' AND ':' THEN  -- it is renewed, and what its user has in the session stays
    IF substr(held, 11) <> substr(value, 11) THEN   -- or a reset was forgotten: this is not a defence
      RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'tenantproxy: this connection is another tenant''s, reset it first';
    END IF;
  ELSIF chained THEN                            -- DISCARD ALL has been there before; since then, this client alone
    done := setseed((nonce >> 33) / 2147483648.0::float8) IS NOT NULL;      -- no reset touches the seed of random()
  ELSE
    IF NOT ours THEN                            -- they may stand in for statements of the driver
      RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'tenantproxy: statements of the driver are gone from this session, or some were prepared in SQL';
    END IF;
    DISCARD SEQUENCES;                          -- the former tenant's numbers
    done := (pg_advisory_unlock_all(), setseed((nonce >> 33) / 2147483648.0::float8)) IS NOT NULL;
  END IF;
  done := (setval('tenantproxy.trusted_mark', hashtextextended(value COLLATE "C", setval('tenantproxy.session_nonce', nonce))),
           set_config('backtrace_functions', value, false),
           set_config('app.current_tenant_id', tenant, false)) IS NOT NULL;   -- for column defaults, and old policies next to a RESTRICTIVE one
  RETURN encode(substr(mac, 25, 8), 'hex') || ' ' || tenant;
END $f$;

-- After a reset that left the tenant: what trust() set, to the second. No proof, since it opens nothing new.
CREATE OR REPLACE FUNCTION tenantproxy.trust_again(tenant text, until bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  value text := until || translate(tenant, '-.', E' \t');
BEGIN
  IF until BETWEEN 1000000000 AND 9999999999      -- the mark is a hash that is no secret: no text may be sought that fits, so nothing of it is free
     AND currval('tenantproxy.trusted_mark') = hashtextextended(value COLLATE "C", currval('tenantproxy.session_nonce'))
     AND current_setting('backtrace_functions') COLLATE "C" NOT BETWEEN '0' AND ':' THEN
    PERFORM FROM tenantproxy.fenced_tenant f WHERE f.tenant_id = tenant;
    IF NOT FOUND THEN
      RETURN (pg_advisory_unlock_all(), set_config('backtrace_functions', value, false), set_config('app.current_tenant_id', tenant, false)) IS NOT NULL;
    END IF;
  END IF;
  RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantproxy: this connection was not this tenant''s';
END $f$;

-- What bound_lease.sql has just (again) installed goes under another name.
DO $$ BEGIN
  EXECUTE replace(pg_get_functiondef('tenantproxy.bound_tenant()'::regprocedure), 'FUNCTION tenantproxy.bound_tenant()', 'FUNCTION tenantproxy.proved_tenant()');
END $$;
-- Has the rights of its caller and no SET, so each name stands here with its schema: types, operators and collations too. A tenant is there, and its
-- time is not over (counted at transaction start). Not in SQL: a statement that is planned each time would read, inline and fold its body each time,
-- which costs the server more than the rest of a select by primary key. Few expressions: each is initialized again in every transaction.
CREATE OR REPLACE FUNCTION tenantproxy.bound_tenant() RETURNS text
LANGUAGE plpgsql STABLE SECURITY INVOKER PARALLEL RESTRICTED
AS $f$
DECLARE
  value pg_catalog.text := pg_catalog.current_setting('backtrace_functions');
BEGIN
  IF value OPERATOR(pg_catalog.>) pg_catalog.date_part('epoch', CURRENT_TIMESTAMP)::pg_catalog.int8::pg_catalog.text COLLATE pg_catalog."C"
     AND value OPERATOR(pg_catalog.<) ':' COLLATE pg_catalog."C" THEN
    RETURN pg_catalog.translate(pg_catalog.substr(value, 11), E' \t', '-.');
  END IF;
  RETURN tenantproxy.proved_tenant();
END $f$;

REVOKE ALL ON FUNCTION tenantproxy.trust(text, integer, bigint, text, bigint, boolean), tenantproxy.trust_again(text, bigint), tenantproxy.bound_tenant(), tenantproxy.proved_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.trust(text, integer, bigint, text, bigint, boolean), tenantproxy.trust_again(text, bigint), tenantproxy.bound_tenant(), tenantproxy.proved_tenant() TO :"app";
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
