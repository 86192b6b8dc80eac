-- In which tenants does an e-mail address have an account? In the main database; a hint, never the last word.
-- email_key = HMAC-SHA256(pepper, address): who reads this table learns no address. Running it again is the upgrade.
CREATE TABLE IF NOT EXISTS tenantproxy.login_directory (
  email_key bytea NOT NULL CHECK (octet_length(email_key) = 32),
  tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
  user_id   text COLLATE "C" NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 255),
  since     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (email_key, tenant_id));
CREATE INDEX IF NOT EXISTS login_directory_of_tenant ON tenantproxy.login_directory (tenant_id, email_key);
REVOKE ALL ON tenantproxy.login_directory FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenantproxy.login_directory TO :"app";
