-- One budget of connections for many processes. PostgreSQL 15+ (main). Running it again is the upgrade: each step runs once.
-- Comes after keeper.sql, in one transaction. It fills in the roles that may call fleet_sync, which is all they may do here; what a
-- caller may not do without the fleet's key is stated at each step. The rules are in docs/fleet.md.
GRANT tenantproxy_keeper TO CURRENT_USER;              -- only needed when not superuser; revoked below
SET LOCAL ROLE tenantproxy_keeper;

DO $$ BEGIN                                            -- a newer release was here: its rules are not ours to replace
  IF to_regclass('tenantproxy.fleet') IS NOT NULL THEN
    IF EXISTS (SELECT FROM tenantproxy.fleet WHERE version > 1) THEN
      RAISE EXCEPTION 'tenantproxy: the fleet of this database was installed by a newer release'
        USING ERRCODE = '55000', HINT = 'install with that release, or a newer one';
    END IF;
  END IF;
END $$;
CREATE TABLE IF NOT EXISTS tenantproxy.fleet (
  fleet        text COLLATE "C" PRIMARY KEY CHECK (pg_catalog.octet_length(fleet) BETWEEN 1 AND 63),
  version      int NOT NULL DEFAULT 1,                  -- of the protocol: another one is refused
  ttl_ms       bigint NOT NULL CHECK (ttl_ms BETWEEN 3000 AND 3600000),
  every_ms     bigint NOT NULL DEFAULT 100 CHECK (every_ms >= 0),  -- no rebalance more often
  clock_ms     bigint NOT NULL DEFAULT 0,               -- time during which main was up and balancing; not wall time
  ticked_ms    bigint NOT NULL DEFAULT 0,               -- wall time of main at the last tick
  timeline     text NOT NULL DEFAULT pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8),
  settle_until bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS tenantproxy.fleet_key (     -- HMAC keys, stored as key XOR 0x36.. and key XOR 0x5c..; older ones end by not_after
  fleet     text COLLATE "C" NOT NULL REFERENCES tenantproxy.fleet ON DELETE CASCADE,
  ipad      bytea NOT NULL CHECK (pg_catalog.octet_length(ipad) = 64),
  opad      bytea NOT NULL CHECK (pg_catalog.octet_length(opad) = 64),
  not_after timestamptz NOT NULL DEFAULT 'infinity',
  PRIMARY KEY (fleet, ipad));
CREATE TABLE IF NOT EXISTS tenantproxy.fleet_server (
  fleet text COLLATE "C" NOT NULL REFERENCES tenantproxy.fleet ON DELETE CASCADE,
  server text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(server) BETWEEN 1 AND 63),
  ceiling int CHECK (ceiling > 0),                      -- of the operator; else what the processes report counts
  ghosts int NOT NULL DEFAULT 0 CHECK (ghosts >= 0),    -- connections of silent processes, seen on the server
  epoch bigint NOT NULL DEFAULT 0,                      -- rises when a share falls silent
  epoch_at bigint NOT NULL DEFAULT 0,
  counted bigint NOT NULL DEFAULT -1,                   -- the epoch of the last census
  unclaimed int NOT NULL DEFAULT 0,
  census boolean NOT NULL DEFAULT true,                 -- false: no process can count there (a pooler in between)
  blind boolean NOT NULL DEFAULT false,                 -- after a failover nothing is raised before a census
  PRIMARY KEY (fleet, server)) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS tenantproxy.fleet_share (
  fleet text COLLATE "C" NOT NULL, server text COLLATE "C" NOT NULL, process uuid NOT NULL,
  seq bigint NOT NULL, used int NOT NULL CHECK (used >= 0), lower boolean NOT NULL, keep int NOT NULL CHECK (keep >= 0), want real NOT NULL, weight real NOT NULL, floor int NOT NULL, burst int NOT NULL,
  cap int NOT NULL, granted int NOT NULL CHECK (granted >= 0), target int NOT NULL, seen bigint NOT NULL, joined bigint NOT NULL,
  silent boolean NOT NULL DEFAULT false, claim_epoch bigint NOT NULL DEFAULT -1, pids int[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (fleet, server, process),
  FOREIGN KEY (fleet, server) REFERENCES tenantproxy.fleet_server ON DELETE CASCADE) WITH (fillfactor = 50);
REVOKE ALL ON tenantproxy.fleet, tenantproxy.fleet_key, tenantproxy.fleet_server, tenantproxy.fleet_share FROM PUBLIC;

-- Rows that someone deletes by hand are grants that main does not know of any more, as after a failover: the next call lets it settle.
CREATE OR REPLACE FUNCTION tenantproxy.fleet_emptied() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF coalesce(current_setting('tenantproxy.fleet', true), '') <> 'sync' THEN
    UPDATE tenantproxy.fleet SET timeline = '';
  END IF;
  RETURN NULL;
END
$f$;
REVOKE ALL ON FUNCTION tenantproxy.fleet_emptied() FROM PUBLIC;
CREATE OR REPLACE TRIGGER fleet_deleted AFTER DELETE ON tenantproxy.fleet_share FOR EACH STATEMENT EXECUTE FUNCTION tenantproxy.fleet_emptied();
CREATE OR REPLACE TRIGGER fleet_truncated AFTER TRUNCATE ON tenantproxy.fleet_share FOR EACH STATEMENT EXECUTE FUNCTION tenantproxy.fleet_emptied();

-- Is it one of the fleet's processes that says this? Locks nothing and writes nothing. Only the keeper may execute it.
CREATE OR REPLACE FUNCTION tenantproxy.fleet_verified(p_fleet text, p_process uuid, p_seq bigint, p_body text, p_mac bytea) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT EXISTS (SELECT FROM tenantproxy.fleet_key f WHERE f.fleet = p_fleet AND f.not_after > statement_timestamp()
    AND sha256(sha256(f.opad || sha256(f.ipad || convert_to('fleet1|' || p_fleet || '|' || p_process || '|' || p_seq || '|' || p_body, 'UTF8')))) = sha256(p_mac))
$f$;
REVOKE ALL ON FUNCTION tenantproxy.fleet_verified(text, uuid, bigint, text, bytea) FROM PUBLIC;

-- Targets and raises; the caller holds the row of the fleet. Locks shares in the order (server, process), as reports do.
CREATE OR REPLACE FUNCTION tenantproxy.fleet_rebalance(p_fleet text, p_now bigint) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  f tenantproxy.fleet;
  raised text[];
  lowered text[];
BEGIN
  SELECT * INTO STRICT f FROM tenantproxy.fleet WHERE fleet = p_fleet;
  f.clock_ms := f.clock_ms + least(f.ttl_ms / 15, greatest(0, p_now - f.ticked_ms));  -- a step of the wall clock counts for little
  UPDATE tenantproxy.fleet SET clock_ms = f.clock_ms, ticked_ms = p_now WHERE fleet = p_fleet;
  PERFORM FROM tenantproxy.fleet_server s WHERE s.fleet = p_fleet ORDER BY s.server FOR UPDATE;
  PERFORM FROM tenantproxy.fleet_share q WHERE q.fleet = p_fleet ORDER BY q.server, q.process FOR UPDATE;
  -- 1. silent: it keeps all that it may hold, and a census is due
  WITH gone AS (UPDATE tenantproxy.fleet_share q SET silent = true
      WHERE q.fleet = p_fleet AND NOT q.silent AND q.seen + f.ttl_ms < f.clock_ms RETURNING q.server)
  UPDATE tenantproxy.fleet_server s SET epoch = s.epoch + 1, epoch_at = f.clock_ms
    WHERE s.fleet = p_fleet AND s.server IN (SELECT server FROM gone);
  -- 2. forgotten after ten TTL, by when it has closed everything or is stopped; what the census saw stays reserved as ghosts
  WITH old AS (DELETE FROM tenantproxy.fleet_share q USING tenantproxy.fleet_server s WHERE q.fleet = p_fleet AND q.silent AND q.seen + 10 * f.ttl_ms < f.clock_ms
        AND s.fleet = q.fleet AND s.server = q.server AND (s.counted = s.epoch OR NOT s.census)
      RETURNING q.server, greatest(q.granted, q.used) AS charge),
    sums AS (SELECT server, sum(charge)::int AS charge FROM old GROUP BY server)
  UPDATE tenantproxy.fleet_server s SET ghosts = CASE WHEN s.counted = s.epoch THEN least(s.ghosts + sums.charge, s.unclaimed) ELSE s.ghosts END
    FROM sums WHERE s.fleet = p_fleet AND s.server = sums.server;
  UPDATE tenantproxy.fleet_server s SET blind = false, ghosts = 0
    WHERE s.fleet = p_fleet AND NOT s.census AND (s.blind OR s.ghosts > 0) AND s.epoch_at + 10 * f.ttl_ms < f.clock_ms;
  -- 3. targets: floors, then max-min over what is wanted above them, by weight
  WITH a AS (
    SELECT q.server, q.process, q.silent, greatest(q.granted, q.used) AS charge, q.granted, q.floor, q.weight, q.joined,
           ceil(q.want)::int + 1 AS want, least(s.ceiling, min(q.cap) FILTER (WHERE NOT q.silent) OVER v) AS cap, s.ghosts
      FROM tenantproxy.fleet_share q JOIN tenantproxy.fleet_server s ON s.fleet = q.fleet AND s.server = q.server
      WHERE q.fleet = p_fleet WINDOW v AS (PARTITION BY q.server)),
  b AS (SELECT *, cap - ghosts - (coalesce(sum(charge) FILTER (WHERE silent) OVER (PARTITION BY server), 0))::int AS avail FROM a),
  c AS (SELECT server, process, granted, weight, want, avail,
               least(floor, greatest(0, avail - coalesce(sum(floor) OVER (PARTITION BY server ORDER BY joined, process ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)))::int AS base
          FROM b WHERE NOT silent),
  d AS (SELECT *, greatest(0, want - base)::float8 AS need, greatest(0, avail - sum(base) OVER (PARTITION BY server))::float8 AS pot FROM c),
  e AS (SELECT *, (pot - coalesce(sum(need) OVER (PARTITION BY server ORDER BY need / weight, process ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0))
               / sum(weight::float8) OVER (PARTITION BY server ORDER BY need / weight, process ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS level FROM d),
  g AS (SELECT *, max(level) FILTER (WHERE need > weight * level + 1e-9) OVER (PARTITION BY server) AS water FROM e),
  h AS (SELECT *, floor(least(need, weight * coalesce(water, 'infinity')) + 1e-9)::int AS more FROM g),
  i AS (SELECT *, (pot - sum(more) OVER (PARTITION BY server))::int AS rest, more < need AS short,
               row_number() OVER (PARTITION BY server, more < need ORDER BY process) AS rank, count(*) OVER (PARTITION BY server) AS n FROM h),
  -- what is over is lent out by halves, evenly; the other half stays free for who comes next
  j AS (SELECT server, process, base + more + CASE WHEN water IS NULL THEN rest / 2 / n WHEN short AND rank <= rest THEN 1 ELSE 0 END AS target FROM i)
  , ch AS (UPDATE tenantproxy.fleet_share q SET target = j.target FROM j
    WHERE q.fleet = p_fleet AND q.server = j.server AND q.process = j.process AND q.target <> j.target RETURNING q.process, q.granted > q.target AS lower)
  SELECT array_agg(DISTINCT left(process::text, 8)) FILTER (WHERE lower) INTO lowered FROM ch;
  -- 4. raise out of what is free, the furthest below its target first; never while a failover settles
  IF f.clock_ms >= f.settle_until THEN
    WITH a AS (
      SELECT q.server, q.process, q.silent, q.granted, q.target,
             CASE WHEN s.blind THEN 0 ELSE least(s.ceiling, min(q.cap) FILTER (WHERE NOT q.silent) OVER v) END - s.ghosts - sum(greatest(q.granted, q.used)) OVER v AS free,
             greatest(q.granted, q.used) AS charge, q.floor
        FROM tenantproxy.fleet_share q JOIN tenantproxy.fleet_server s ON s.fleet = q.fleet AND s.server = q.server
        WHERE q.fleet = p_fleet WINDOW v AS (PARTITION BY q.server)),
    b AS (SELECT *, coalesce(sum(greatest(0, target - charge)) OVER (PARTITION BY server ORDER BY (granted < least(floor, target)) DESC, target - charge DESC, process
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before FROM a WHERE NOT silent),
    up AS (UPDATE tenantproxy.fleet_share q SET granted = b.charge + least(b.target - b.charge, b.free - b.before)::int FROM b
      WHERE q.fleet = p_fleet AND q.server = b.server AND q.process = b.process AND b.target > b.charge AND b.free > b.before RETURNING q.process)
    SELECT array_agg(DISTINCT left(process::text, 8)) INTO raised FROM up;
  END IF;
  lowered := coalesce(lowered, '{}') || coalesce(raised, '{}');
  IF cardinality(lowered) > 0 THEN  -- a hint and no more: any role may NOTIFY
    PERFORM pg_notify('tenantproxy_fleet', CASE WHEN cardinality(lowered) > 500 THEN '*' ELSE array_to_string(lowered, ' ') END);
  END IF;
  RETURN coalesce(cardinality(raised), 0);
END
$f$;
REVOKE ALL ON FUNCTION tenantproxy.fleet_rebalance(text, bigint) FROM PUBLIC;

-- One call of a process: what it holds and wants, and what it may hold from now on. body, JSON:
-- {"ttl":15000,"leave":false,"shares":[{"s":server,"u":used,"w":want,"k":keep,"l":lowers,"c":cap,"f":floor,"b":burst,"x":weight,"e":epoch,"p":[pids]}],
--  "census":[{"s":server,"e":epoch,"p":[all pids of the fleet's users on that server]}]}
-- keep: the bound that the process has put on itself before it sent this; lowers: it is below what the last answer granted.
-- A fenced process sends keep = what it holds and lowers = false. A share falls to keep when it lowers, and nowhere else while its process lives.
CREATE OR REPLACE FUNCTION tenantproxy.fleet_sync(p_fleet text, p_process uuid, p_seq bigint, p_body text, p_mac bytea)
RETURNS TABLE (server text, granted int, target int, epoch bigint, counted boolean, witness boolean, processes int, ghosts int, state text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $f$
#variable_conflict use_column
DECLARE
  f tenantproxy.fleet;
  body jsonb;
  wall bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
  line text := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
  step bigint;
  leads boolean := false;
  urgent boolean;
  c record;
BEGIN
  IF NOT tenantproxy.fleet_verified(p_fleet, p_process, p_seq, p_body, p_mac) THEN  -- before any lock
    RAISE EXCEPTION 'tenantproxy: not a process of this fleet' USING ERRCODE = '42501';
  END IF;
  body := p_body::jsonb;
  PERFORM set_config('tenantproxy.fleet', 'sync', true);      -- see fleet_emptied
  PERFORM set_config('synchronous_commit', 'on', true);  -- an answer that a restart forgets would be granted twice
  SELECT * INTO STRICT f FROM tenantproxy.fleet x WHERE x.fleet = p_fleet;
  IF (body->>'ttl')::bigint <> f.ttl_ms OR coalesce((body->>'v')::int, 1) <> f.version THEN
    RAISE EXCEPTION 'tenantproxy: this fleet has version % and ttl % ms', f.version, f.ttl_ms USING ERRCODE = '55000';
  END IF;
  IF f.timeline <> line THEN  -- a failover: the last grants may be lost. Or rows were deleted by hand, see fleet_emptied
    SELECT * INTO STRICT f FROM tenantproxy.fleet x WHERE x.fleet = p_fleet FOR UPDATE;
    IF f.timeline <> line THEN
      UPDATE tenantproxy.fleet x SET timeline = line, settle_until = f.clock_ms + f.ttl_ms + f.ttl_ms / 5
        WHERE x.fleet = p_fleet RETURNING x.* INTO f;
      UPDATE tenantproxy.fleet_server s SET epoch = s.epoch + 1, epoch_at = f.clock_ms, blind = true WHERE s.fleet = p_fleet;
    END IF;
    leads := true;
  ELSIF f.clock_ms < f.settle_until THEN  -- adopts, so never at the same time as a leader
    SELECT * INTO STRICT f FROM tenantproxy.fleet x WHERE x.fleet = p_fleet FOR UPDATE;
    leads := true;
  ELSIF wall - f.ticked_ms NOT BETWEEN 0 AND f.every_ms THEN
    SELECT * INTO f FROM tenantproxy.fleet x WHERE x.fleet = p_fleet FOR UPDATE SKIP LOCKED;
    leads := FOUND;
    IF NOT leads THEN SELECT * INTO STRICT f FROM tenantproxy.fleet x WHERE x.fleet = p_fleet; END IF;
  END IF;
  step := f.ttl_ms / 15;
  INSERT INTO tenantproxy.fleet_server (fleet, server, blind)
    SELECT p_fleet, a->>'s', f.clock_ms < f.settle_until FROM jsonb_array_elements(body->'shares') a
      WHERE NOT EXISTS (SELECT FROM tenantproxy.fleet_server s WHERE s.fleet = p_fleet AND s.server = a->>'s') ORDER BY 2 ON CONFLICT DO NOTHING;
  IF leads THEN
    PERFORM FROM tenantproxy.fleet_server s WHERE s.fleet = p_fleet ORDER BY s.server FOR UPDATE;
    PERFORM FROM tenantproxy.fleet_share q WHERE q.fleet = p_fleet ORDER BY q.server, q.process FOR UPDATE;
  ELSE
    PERFORM FROM tenantproxy.fleet_share q WHERE q.fleet = p_fleet AND q.process = p_process ORDER BY q.server FOR UPDATE;
  END IF;
  IF EXISTS (SELECT FROM tenantproxy.fleet_share q WHERE q.fleet = p_fleet AND q.process = p_process AND q.seq >= p_seq) THEN
    RETURN QUERY SELECT ''::text, 0, 0, 0::bigint, false, false, 0, 0, 'stale'::text;  -- late, or another process has this id
    RETURN;
  END IF;
  -- who asks for more than before, or gave up some, should not wait for the next report: see the answer
  urgent := NOT leads AND EXISTS (SELECT FROM jsonb_array_elements(body->'shares') a
    LEFT JOIN tenantproxy.fleet_share q ON q.fleet = p_fleet AND q.server = a->>'s' AND q.process = p_process
    WHERE q.process IS NULL OR (a->>'l')::boolean OR (a->>'w')::real > q.want + 0.5);
  IF (body->>'leave')::boolean THEN
    DELETE FROM tenantproxy.fleet_share q WHERE q.fleet = p_fleet AND q.process = p_process;
  ELSE
    INSERT INTO tenantproxy.fleet_share AS q (fleet, server, process, seq, used, lower, keep, want, weight, floor, burst, cap, granted, target, seen, joined, claim_epoch, pids)
      SELECT p_fleet, a->>'s', p_process, p_seq, (a->>'u')::int, (a->>'l')::boolean, (a->>'k')::int, (a->>'w')::real, greatest(0.01, coalesce((a->>'x')::real, 1)), greatest(0, (a->>'f')::int),
             (a->>'b')::int, (a->>'c')::int, CASE WHEN f.clock_ms < f.settle_until THEN (a->>'k')::int ELSE 0 END, 0, f.clock_ms + step, f.clock_ms,
             coalesce((a->>'e')::bigint, -1), coalesce((SELECT array_agg(p::int) FROM jsonb_array_elements_text(a->'p') p), '{}')
        FROM jsonb_array_elements(body->'shares') a ORDER BY 2
      ON CONFLICT (fleet, server, process) DO UPDATE SET seq = excluded.seq, used = excluded.used, lower = excluded.lower, keep = excluded.keep, want = excluded.want, weight = excluded.weight,
        floor = excluded.floor, burst = excluded.burst, cap = excluded.cap, seen = excluded.seen, silent = false, claim_epoch = excluded.claim_epoch, pids = excluded.pids,
        granted = CASE WHEN f.clock_ms >= f.settle_until THEN CASE WHEN excluded.lower THEN least(q.granted, excluded.keep) ELSE q.granted END  -- must not undo a raise that it has not seen
                    WHEN excluded.claim_epoch = (SELECT s.epoch FROM tenantproxy.fleet_server s WHERE s.fleet = p_fleet AND s.server = excluded.server) THEN excluded.keep
                    ELSE greatest(q.granted, excluded.keep) END;
  END IF;
  -- dead for sure, as its host says: silent at the next tick, and forgotten a ttl and a census later
  UPDATE tenantproxy.fleet_share q SET seen = least(q.seen, f.clock_ms - 9 * f.ttl_ms - 1)
    WHERE q.fleet = p_fleet AND q.process <> p_process AND q.process IN (SELECT b::uuid FROM jsonb_array_elements_text(body->'bury') b);
  -- a census: what no live process claims is a ghost. Only of the newest epoch, and only the leader applies it
  IF leads THEN
    FOR c IN SELECT a->>'s' AS server, (a->>'e')::bigint AS epoch, (SELECT count(*) FROM jsonb_array_elements_text(a->'p') p
               WHERE NOT EXISTS (SELECT FROM tenantproxy.fleet_share q WHERE q.fleet = p_fleet AND q.server = a->>'s' AND NOT q.silent
                                   AND q.claim_epoch = (a->>'e')::bigint AND p::int = ANY (q.pids)))::int AS unclaimed
               FROM jsonb_array_elements(body->'census') a LOOP
      UPDATE tenantproxy.fleet_server s SET counted = c.epoch, unclaimed = c.unclaimed, blind = s.blind AND f.clock_ms < f.settle_until,
             ghosts = CASE WHEN s.blind THEN c.unclaimed ELSE least(c.unclaimed, s.ghosts + coalesce((SELECT sum(greatest(q.granted, q.used) - least(greatest(q.granted, q.used), greatest(q.floor, q.burst))) FROM tenantproxy.fleet_share q
                 WHERE q.fleet = p_fleet AND q.server = s.server AND q.silent), 0)::int) END
        WHERE s.fleet = p_fleet AND s.server = c.server AND s.epoch = c.epoch;
      IF FOUND THEN
        UPDATE tenantproxy.fleet_share q SET granted = least(q.granted, greatest(q.floor, q.burst)), used = least(q.used, greatest(q.floor, q.burst))
          WHERE q.fleet = p_fleet AND q.server = c.server AND q.silent;
      END IF;
    END LOOP;
    PERFORM tenantproxy.fleet_rebalance(p_fleet, wall);
  END IF;
  -- everyone claims its process ids while a census is due; one live process after the other takes it
  RETURN QUERY
    SELECT a.server, CASE WHEN f.clock_ms < f.settle_until THEN least(a.granted, a.keep) ELSE a.granted END, a.target, a.epoch, a.due,
           a.due AND p_process = a.live[1 + (SELECT x.clock_ms FROM tenantproxy.fleet x WHERE x.fleet = p_fleet) / (f.ttl_ms / 5) % cardinality(a.live)], cardinality(a.live), a.ghosts,
           CASE WHEN f.clock_ms < f.settle_until THEN 'settling' WHEN urgent THEN 'later' ELSE 'ok' END  -- later: not balanced yet, report again soon
      FROM (SELECT q.*, s.epoch, s.ghosts, s.census AND (s.blind OR s.ghosts > 0 OR EXISTS (SELECT FROM tenantproxy.fleet_share o WHERE o.fleet = p_fleet AND o.server = q.server AND o.silent)) AS due,
                   ARRAY(SELECT o.process FROM tenantproxy.fleet_share o WHERE o.fleet = p_fleet AND o.server = q.server AND NOT o.silent ORDER BY o.process) AS live
              FROM tenantproxy.fleet_share q JOIN tenantproxy.fleet_server s ON s.fleet = q.fleet AND s.server = q.server
              WHERE q.fleet = p_fleet AND q.process = p_process) a ORDER BY a.server;
END
$f$;
REVOKE ALL ON FUNCTION tenantproxy.fleet_sync(text, uuid, bigint, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.fleet_sync(text, uuid, bigint, text, bytea) TO :"app";

-- Who holds what, for `tenantproxy fleet`: no pads and no process ids in it.
CREATE OR REPLACE FUNCTION tenantproxy.fleet_view(p_fleet text)
RETURNS TABLE (server text, process uuid, granted int, used int, target int, wanted real, floor int, cap int, silent boolean, seen_ms bigint,
  ghosts int, epoch bigint, counted boolean, blind boolean, settling boolean, ticked_ms bigint, ttl_ms bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT s.server, q.process, q.granted, q.used, q.target, q.want, q.floor, least(s.ceiling, q.cap), q.silent, greatest(0, f.clock_ms + f.ttl_ms / 15 - q.seen),
         s.ghosts, s.epoch, s.counted = s.epoch, s.blind, f.clock_ms < f.settle_until, f.ticked_ms, f.ttl_ms
    FROM tenantproxy.fleet f JOIN tenantproxy.fleet_server s ON s.fleet = f.fleet
    LEFT JOIN tenantproxy.fleet_share q ON q.fleet = s.fleet AND q.server = s.server
    WHERE f.fleet = p_fleet ORDER BY s.server, q.joined, q.process
$f$;
REVOKE ALL ON FUNCTION tenantproxy.fleet_view(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantproxy.fleet_view(text) TO :"app";
RESET ROLE;
REVOKE tenantproxy_keeper FROM CURRENT_USER;
