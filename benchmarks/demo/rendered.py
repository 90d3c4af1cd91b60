"""The whole journey on rendered inspection images, some minutes on two cores."""

import argparse

from benchmarks.demo.command import add_folder
from benchmarks.demo.command import run as go


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    add_folder(parser)


def run(args: argparse.Namespace) -> int:
    """Go, and return the exit code."""
    from benchmarks.demo.journey import Rendered, Settings

    settings = Settings(
        title="Demo: surface inspection under attack",
        images=Rendered(train=250, test=50),
        surrogates=("residual", "fire"),
        target="depthwise",
        epochs=7,
        harden_epochs=8,
        members=4,
        crafted=1400,
        remarks=(
            (
                "The images are rendered by this product's own generator: they look like metal and"
                " board patches, and are easier than a plant's."
            ),
        ),
    )
    return go(args, settings)
