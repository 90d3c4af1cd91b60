"""Deep fusion at a budget of passes: how many steps, and which parts earn their place there."""

from dataclasses import replace

from deepfusion_toolkit.attacks.settings import Settings

LARGE = 96
"""Pixels a side from which surrogates see shuffled and turned blocks. On inputs of 32 and 64 pixels
the transforms of this package cost success at every budget tried (see ``deepfusion ablate``)."""
EARNS_FROM = 40
"""Passes from which erosion earns more than it costs: few steps bear little randomness."""


def deep_fusion(passes: int, plain: Settings, side: int = 224) -> Settings:
    """Choose the parts of deep fusion.

    Args:
        passes: per image, all surrogates counted.
        plain: epsilon, seed and whether targeted; nothing else switched on.
        side: shorter side of the surrogates' smallest input, in pixels.
    """
    large = side >= LARGE
    fused = replace(
        plain,
        group=1,
        feature_weight=0.5,
        transforms=("bsr",) if large else (),
        residual=0.5 if large else 1.0,
        erosion=0.5 if passes >= EARNS_FROM else 0.0,
    )
    if not plain.targeted:
        return replace(fused, steps=passes)
    # hundreds of steps bear, and a wanted class needs, views that differ more
    more = ("bsr", "di", "turn") if large else ()
    return replace(fused, transforms=more, steps=passes, step_size=min(2.0, plain.eps))
