-- What the service of users may. It owns nothing.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'prismicx_users') THEN
        GRANT USAGE ON SCHEMA user_data, user_preferences, user_extensions TO prismicx_users;
        GRANT SELECT, INSERT, UPDATE ON user_data.users TO prismicx_users;
        GRANT SELECT, INSERT, UPDATE, DELETE ON user_preferences.preferences TO prismicx_users;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA user_extensions TO prismicx_users;
        REVOKE INSERT, UPDATE, DELETE ON user_extensions.extension_practicality FROM prismicx_users;
    END IF;
END $$;
