"""Offline toolkit of Deep Fusion: craft, evaluate, harden."""

__version__ = "0.1.0"
