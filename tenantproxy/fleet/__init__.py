"""How much of each server may this process use? One budget for all processes of a fleet, kept in the main database."""
