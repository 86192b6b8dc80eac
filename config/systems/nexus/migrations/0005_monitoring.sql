CREATE TABLE system_metrics (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    metric_name varchar(255) NOT NULL,
    metric_value decimal(15, 4) NOT NULL,
    metric_unit varchar(50),
    tags jsonb DEFAULT '{}',
    "timestamp" timestamp DEFAULT now()
);
CREATE INDEX idx_system_metrics_name ON system_metrics (metric_name);
CREATE INDEX idx_system_metrics_timestamp ON system_metrics ("timestamp");

CREATE TABLE alerts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    alert_name varchar(255) NOT NULL,
    severity varchar(50) NOT NULL,
    message text NOT NULL,
    status varchar(50) DEFAULT 'active',
    acknowledged_by uuid REFERENCES users ON DELETE SET NULL,
    acknowledged_at timestamp,
    created_at timestamp DEFAULT now(),
    resolved_at timestamp
);
CREATE INDEX idx_alerts_status ON alerts (status);
CREATE INDEX idx_alerts_severity ON alerts (severity);
CREATE INDEX alerts_acknowledged_by ON alerts (acknowledged_by);
