"""Faults: power cuts at every operation of a disk, killed processes, full disks, wrong clocks."""
