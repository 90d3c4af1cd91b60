"""Erosion by graph surgery: the one mechanism behind attack, hardening, evaluation and export."""

from deepfusion_toolkit.surgery.cost import Work, members_cost, prefix_share, share_before, work_of
from deepfusion_toolkit.surgery.insert import ErodedModel, Seen, erode
from deepfusion_toolkit.surgery.sites import DEFAULT_STRENGTH, find_sites

__all__ = [
    "DEFAULT_STRENGTH",
    "ErodedModel",
    "Seen",
    "Work",
    "erode",
    "find_sites",
    "members_cost",
    "prefix_share",
    "share_before",
    "work_of",
]
