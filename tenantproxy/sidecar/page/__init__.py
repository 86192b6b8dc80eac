"""What does an operator see? One page over the admin listener: pools, servers, who waits, what happened, live."""
