"""Deep fusion at a budget of passes: how many steps, and which parts earn their place there."""

from dataclasses import replace

from deepfusion_toolkit.attacks.settings import Settings


def deep_fusion(passes: int, surrogates: int, plain: Settings) -> Settings:
    """Choose the parts of deep fusion.

    Args:
        passes: per image, all surrogates counted.
        surrogates: how many there are.
        plain: epsilon, seed and whether targeted; nothing else switched on.
    """
    if plain.targeted:
        return replace(
            plain, steps=passes // surrogates, transforms=("di",), kernel=5, step_size=2.0
        )
    return replace(plain, steps=passes, group=1, transforms=("turn",), residual=0.5)
