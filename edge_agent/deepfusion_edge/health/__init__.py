"""Seeing the agent: what happened, how the device is, metrics, health check and status page."""
