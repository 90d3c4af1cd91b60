"""Signed commands from afar: who may ask for what, and what becomes of it after a power cut."""
