"""The corpus of hostile input: a module for each kind, a small generator for each case."""

KINDS = {
    "archives": "bundles as archives",
    "folders": "bundles as folders",
    "signatures": "signatures of bundles",
    "manifests": "signed manifests that break a rule",
    "pickles": "pickles and files of training frameworks",
    "graphs": "ONNX graphs",
    "probes": "graphs that fail when they run",
    "engines": "TensorRT engines in the cache",
    "images": "images",
    "topics": "topics, names and ids",
    "commands": "signed commands",
    "remote": "configuration and addresses from afar",
    "secrecy": "secrets",
    "texts": "JSON and other encodings",
    "clocks": "clocks and sequences",
    "disks": "disks and the state folder",
}
"""Module of this package -> what its cases have in common. Each has a tuple ``CASES``."""
