CREATE TABLE audit_logs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    table_name varchar(255) NOT NULL,
    record_id uuid NOT NULL,
    action varchar(50) NOT NULL,
    old_values jsonb,
    new_values jsonb,
    changed_by uuid REFERENCES users ON DELETE SET NULL,
    changed_at timestamp DEFAULT now(),
    ip_address inet,
    user_agent text
);
CREATE INDEX idx_audit_logs_table_record ON audit_logs (table_name, record_id);
CREATE INDEX idx_audit_logs_changed_at ON audit_logs (changed_at);
CREATE INDEX audit_logs_changed_by ON audit_logs (changed_by);

-- Who asked, from where and with what is signed for each session of the service: its SQL cannot say another. An error
-- where it was tried; NULL for jobs, which say nothing of a request, and for other users (migrations).
CREATE FUNCTION write_audit_log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'password_hash' END;
    after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'password_hash' END;
    who text;
    address text;
    agent text;
BEGIN
    IF session_user = 'nexus_service' THEN
        who := tenantproxy.context('app.user_id');
        address := tenantproxy.context('app.ip_address');
        agent := tenantproxy.context('app.user_agent');
    END IF;
    INSERT INTO public.audit_logs
        (table_name, record_id, action, old_values, new_values, changed_by, ip_address, user_agent)
    VALUES (TG_TABLE_NAME, (coalesce(after, before) ->> 'id')::uuid, TG_OP, before, after,
        nullif(who, '')::uuid, nullif(address, '')::inet, nullif(agent, ''));
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION write_audit_log() FROM PUBLIC;

CREATE FUNCTION keep_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.old_values IS NOT NULL OR NEW.new_values IS NOT NULL OR NEW.ip_address IS NOT NULL
        OR NEW.user_agent IS NOT NULL THEN
        RAISE EXCEPTION 'an entry of the audit trail may be emptied, not changed' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_audit_log BEFORE UPDATE OF old_values, new_values, ip_address, user_agent ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION keep_audit_log();

DO $$
DECLARE audited text;
BEGIN
    FOREACH audited IN ARRAY ARRAY['users', 'roles', 'api_endpoints', 'api_aliases', 'ssot_anchors', 'accounts',
        'transactions', 'ai_models', 'ai_insights', 'alerts']
    LOOP
        EXECUTE format('CREATE TRIGGER audit_%1$s AFTER INSERT OR UPDATE OR DELETE ON %1$I
            FOR EACH ROW EXECUTE FUNCTION write_audit_log()', audited);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'nexus_service') THEN
        REVOKE INSERT, UPDATE, DELETE ON audit_logs FROM nexus_service;  -- the trigger alone writes; an erasure empties
        GRANT UPDATE (old_values, new_values, ip_address, user_agent) ON audit_logs TO nexus_service;
    END IF;
END
$$;
