-- Which tenants are being made, and which of those does no process work on? One that says nothing for 30 s is taken for dead.
SELECT s.tenant, s.state, s.error, s.wanted ->> 'database' AS database, s.wanted ->> 'role' AS role, 'tenantproxy_new_' || coalesce(to_jsonb(s) ->> 'stocked', s.wanted ->> 'mark') AS temporary,
  (s.holder IS NULL OR s.seen_at < now() - interval '30 seconds') AND s.updated_at < now() - interval '30 seconds' AS is_left,
  to_char(s.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') AS since
FROM tenantproxy.sagas s WHERE s.state NOT IN ('active', 'cleaned') AND NOT (to_jsonb(s) ->> 'kind' = 'delete' AND s.state = 'waiting') ORDER BY s.id
