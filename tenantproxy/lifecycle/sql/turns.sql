-- tenantproxy: turns. A session goes from one tenant to the next in one message: its reset, and behind it enter(), which binds as bind() does.
-- That message is a simple query, so the proof stands in its text. It is good once: it is made for a nonce that only this backend has, and
-- which is another one afterwards. Comes after bound_lease.sql (same keeper, key table, fence and binding), in its transaction. PostgreSQL 15+.
GRANT tenantproxy_keeper TO CURRENT_USER;
SET LOCAL ROLE tenantproxy_keeper;

-- In the backend's own memory (currval), as the binding: not transactional, no other session's, gone with DISCARD SEQUENCES and the backend.
CREATE UNLOGGED SEQUENCE IF NOT EXISTS tenantproxy.session_nonce MINVALUE -9223372036854775808 START 1;
REVOKE ALL ON SEQUENCE tenantproxy.session_nonce FROM PUBLIC;

-- Once for each connection, and again after DISCARD ALL: what its next proof is made for, 64 random bits. Who asks for a new one makes the
-- proofs of this session void, and can do nothing else with it.
CREATE OR REPLACE FUNCTION tenantproxy.hello() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  random text := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');  -- digits 13 and 17 of a uuid are not random
BEGIN
  RETURN setval('tenantproxy.session_nonce', ('x' || left(random, 12) || right(random, 4))::bit(64)::bigint);
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.hello() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.hello() TO :"app";

-- mac = HMAC-SHA256(key, 'v2|bound|database|pid|nonce|until|tenant'). `until`: unix seconds in its lower 32 bits, and above them for how many seconds
-- that is from now: where a clock has jumped, the two do not fit, and it is refused. The proof is its first half, in hex. The rest never
-- stands in a message to the server: the next nonce, which also salts the mark, and the echo, by which the router knows that this was answered.
-- `prepared`: as in prepared_check(), which is here too, since it costs half as much so.
CREATE OR REPLACE FUNCTION tenantproxy.enter(tenant text, kid integer, until bigint, proof text, prepared bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
  nonce bigint := currval('tenantproxy.session_nonce');
  ends  bigint := until & 4294967295;
  held  text := coalesce(current_setting('app.current_tenant_id', true), '');
  mac   bytea;
  ours  boolean;
  done  boolean;                                -- what the functions of one row return is not NULL, so each of them is called
BEGIN
  SELECT sha256(k.opad || sha256(k.ipad || convert_to(concat_ws('|', 'v2', 'bound', current_database(), pg_backend_pid(), nonce, until, tenant), 'UTF8'))),
      (SELECT count(*) >= prepared AND NOT coalesce(bool_or(p.from_sql), false) FROM pg_prepared_statement() p)
    INTO mac, ours FROM tenantproxy.context_key k   -- the key stays a column: a variable would show in debug_print_plan
    WHERE k.kid = enter.kid AND k.not_after > now() AND ends > date_part('epoch', now()) AND tenant <> ''
      AND (until = ends OR ends <= date_part('epoch', now()) + (until >> 32) + 2)
      AND NOT EXISTS (SELECT FROM tenantproxy.fenced_tenant f WHERE f.tenant_id = tenant);
  IF mac IS NULL OR sha256(substr(mac, 1, 16)) IS DISTINCT FROM sha256(decode(proof, 'hex')) THEN   -- hashed on both sides: comparing bytes tells nothing
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantproxy: the proof of tenancy is not valid on this connection';
  END IF;
  nonce := ('x' || encode(substr(mac, 17, 8), 'hex'))::bit(64)::bigint;
  IF held <> tenant THEN                        -- else it is renewed: what its own user has in the session stays
    IF held <> '' OR NOT ours THEN              -- a forgotten reset, not a defence; or what may stand in for a statement of the driver
      RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = CASE WHEN held <> '' THEN 'tenantproxy: this connection is another tenant''s, reset it first'
        ELSE 'tenantproxy: statements of the driver are gone from this session, or some were prepared in SQL' END;
    END IF;
    DISCARD SEQUENCES;                          -- the former tenant's numbers
    done := (pg_advisory_unlock_all(), setseed((nonce >> 33) / 2147483648.0::float8)) IS NOT NULL;   -- no reset touches the seed of random()
  END IF;
  done := (setval('tenantproxy.session_nonce', nonce),
           setval('tenantproxy.tenant_mark', tenantproxy.mark(setval('tenantproxy.tenant_binding', nonce & 9223372032559808512 | ends), tenant)),
           set_config('app.current_tenant_id', tenant, false), set_config('app.tenant_proof', 'bound', false)) IS NOT NULL;
  RETURN encode(substr(mac, 25, 8), 'hex') || ' ' || tenant;
END $f$;
REVOKE ALL ON FUNCTION tenantproxy.enter(text, integer, bigint, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.enter(text, integer, bigint, text, bigint) TO :"app";
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
