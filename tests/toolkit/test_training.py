"""Training the small families: which turns of images it takes for harmless."""

import numpy as np

from deepfusion_toolkit.data import folder
from deepfusion_toolkit.training import train
from tests.toolkit.attack_nets import picture


def halves(root):
    """Class by whether the left or the right half is brighter: mirroring swaps the two."""
    draw = np.random.default_rng(3)
    for name, at in (("left", 0), ("right", 16)):
        for number in range(80):
            pixels = draw.integers(40, 120, (32, 32, 3))
            pixels[:, at : at + 16] += 100
            picture(root / name / f"{number}.png", pixels)
    return folder.load(root)


def test_a_net_whose_classes_are_mirror_images_is_not_shown_mirrored_ones(tmp_path):
    # mirrored for half of the images, the classes would be a coin's two sides
    assert train(halves(tmp_path / "data"), "plain", tmp_path / "net.pt2", epochs=4) > 0.9
