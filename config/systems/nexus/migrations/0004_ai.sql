CREATE TABLE ai_models (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL,
    provider varchar(100) NOT NULL,
    version varchar(50) NOT NULL,
    status varchar(50) DEFAULT 'inactive',
    capabilities jsonb DEFAULT '[]',
    performance jsonb DEFAULT '{}',
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE TRIGGER update_ai_models_updated_at BEFORE UPDATE ON ai_models
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE ai_insights (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    model_id uuid REFERENCES ai_models ON DELETE CASCADE,
    insight_type varchar(100) NOT NULL,
    title varchar(255) NOT NULL,
    description text,
    data jsonb DEFAULT '{}',
    confidence decimal(3, 2),
    created_at timestamp DEFAULT now()
);
CREATE INDEX idx_ai_insights_model_id ON ai_insights (model_id);
