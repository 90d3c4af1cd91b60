"""The edge agent against its goals: speed, outbox, draining, memory, start, kills and restarts."""
