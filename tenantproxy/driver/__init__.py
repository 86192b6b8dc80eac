"""How does Python get a connection that is its tenant's? asyncpg's connections: opened, guarded and lent."""
