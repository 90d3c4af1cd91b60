"""Edge agent of Deep Fusion: fused predictions of an erosion-model ensemble, without torch."""

__version__ = "0.1.0"
