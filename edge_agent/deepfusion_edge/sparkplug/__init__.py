"""Sparkplug B payloads and the session of an edge node. Pure: time and bytes are arguments."""
