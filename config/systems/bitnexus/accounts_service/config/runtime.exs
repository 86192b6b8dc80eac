import Config

# The PostgreSQL port of tenantproxy. No database is named here: each tenant's repo names its own.
config :accounts_service, AccountsService.Repo,
  hostname: System.get_env("PGHOST", "127.0.0.1"),
  port: String.to_integer(System.get_env("PGPORT", "6432")),
  username: System.get_env("PGUSER", "bitnexus"),
  password: System.fetch_env!("PGPASSWORD")
