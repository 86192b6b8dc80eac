"""What happens on the PostgreSQL port? Who may come in, what is relayed, and the console."""
