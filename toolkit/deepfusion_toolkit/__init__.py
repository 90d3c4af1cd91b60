"""Offline toolkit of Deep Fusion: craft, evaluate, harden."""
