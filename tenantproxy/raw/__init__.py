"""How does a client of the PostgreSQL port get its tenant's backend? Wire backends: opened, bound and lent."""
