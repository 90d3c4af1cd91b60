"""The journey, without training, on twenty photographs with ImageNet models."""

import argparse

from benchmarks.demo.command import add_folder
from benchmarks.demo.command import run as go


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    add_folder(parser)


def run(args: argparse.Namespace) -> int:
    """Go, and return the exit code."""
    from benchmarks.demo.journey import Photographs, Settings

    settings = Settings(
        title="Demo: ImageNet models under attack, erosion without training",
        images=Photographs(),
        surrogates=("efficientnet-lite1", "efficientnet-lite2"),
        target="efficientnet-lite0",
        harden_epochs=0,
        shared=0.5,
        false_positive_rate=0,
        batch=5,
        remarks=(
            (
                "Surrogates and target are of one family and were trained on the same data by the"
                " same people: the attack has it easier than against an unrelated model."
            ),
            "Twenty photographs are too few to calibrate on: no frame is flagged.",
            "The photographs come with the package foolbox (MIT).",
        ),
    )
    return go(args, settings)
