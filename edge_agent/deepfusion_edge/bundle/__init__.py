"""Signed bundles: manifest, verification, storage."""
