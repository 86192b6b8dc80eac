"""What does an operator see with psql? The console: PgBouncer's tables and commands, for tenants."""
