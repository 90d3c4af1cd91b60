"""Export of erosion-model ensembles to signed bundles."""
