CREATE SCHEMA user_preferences;

CREATE TABLE user_preferences.preferences (
    user_id uuid NOT NULL REFERENCES user_data.users (id),
    preference_key varchar(100) NOT NULL,
    preference_value jsonb NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, preference_key)
);
CREATE INDEX ON user_preferences.preferences (user_id);
CREATE TRIGGER preferences_updated_at BEFORE UPDATE ON user_preferences.preferences
    FOR EACH ROW EXECUTE FUNCTION user_data.set_updated_at();
