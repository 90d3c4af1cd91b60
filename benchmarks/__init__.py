"""Figures and demos: `python -m benchmarks --help` lists them."""
