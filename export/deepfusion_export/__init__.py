"""Export of erosion-model ensembles to signed bundles."""

__version__ = "0.1.0"
