CREATE TABLE api_endpoints (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL UNIQUE,
    path varchar(500) NOT NULL,
    method varchar(10) NOT NULL,
    description text,
    version varchar(20) DEFAULT 'v1',
    is_active boolean DEFAULT true,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE INDEX idx_api_endpoints_name ON api_endpoints (name);
CREATE TRIGGER update_api_endpoints_updated_at BEFORE UPDATE ON api_endpoints
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE api_aliases (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    alias_name varchar(255) NOT NULL,
    canonical_name varchar(255) NOT NULL,
    context varchar(100) NOT NULL,
    alias_type varchar(50) NOT NULL,
    description text,
    created_by uuid REFERENCES users ON DELETE SET NULL,
    created_at timestamp DEFAULT now(),
    expires_at timestamp,
    is_active boolean DEFAULT true
);
CREATE INDEX idx_api_aliases_alias ON api_aliases (alias_name);
CREATE INDEX idx_api_aliases_context ON api_aliases (context);
CREATE INDEX api_aliases_created_by ON api_aliases (created_by);

CREATE TABLE ssot_anchors (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    anchor_id varchar(255) NOT NULL UNIQUE,
    family varchar(100) NOT NULL,
    description text,
    format varchar(50) NOT NULL,
    source_hint varchar(500),
    owner varchar(255),
    version varchar(50) NOT NULL,
    centrality_score decimal(3, 2) DEFAULT 0.0,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE INDEX idx_ssot_anchors_family ON ssot_anchors (family);
CREATE TRIGGER update_ssot_anchors_updated_at BEFORE UPDATE ON ssot_anchors
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
