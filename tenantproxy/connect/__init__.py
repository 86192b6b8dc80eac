"""What must both sides do alike? What is asked of a fresh connection, what failures mean, and what runs meanwhile."""
