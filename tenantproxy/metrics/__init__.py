"""Who hears of what happened? Prometheus and the log: the only readers of events and counters."""
