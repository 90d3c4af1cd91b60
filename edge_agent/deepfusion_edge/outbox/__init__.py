"""Bounded store-and-forward: what is put here survives a crash until the broker confirms it."""

from deepfusion_edge.outbox.box import Event, Outbox
from deepfusion_edge.outbox.database import CORRUPT, DATABASE, Counters
from deepfusion_edge.outbox.look import read_counters

__all__ = ["CORRUPT", "DATABASE", "Counters", "Event", "Outbox", "read_counters"]
