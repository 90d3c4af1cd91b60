"""What the defence says of images, drawn anew R times, and which of two attacks was worse."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Outputs, Thresholds, Verdict, judge
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.report.terminal import Advance, progress
from deepfusion_toolkit.statistics import Mean, Share, paired_mean, share

T = TypeVar("T")
Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Scores = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Judged(msgspec.Struct, frozen=True):
    """Verdicts on N images, R times; every list is [R][N].

    Attributes:
        labels: the fused class.
        flagged: suspect or rejected; never without calibrated thresholds.
        feature_variance, disagreement: the scores.
    """

    labels: list[list[int]]
    flagged: list[list[bool]]
    feature_variance: list[list[float]]
    disagreement: list[list[float]]

    def wrong(self, truth: Sequence[int]) -> Flags:
        """Not classified as labelled, [R, N]."""
        return np.asarray(np.array(self.labels) != np.array(truth))

    def harmful(self, truth: Sequence[int]) -> Flags:
        """Wrong and accepted, [R, N]: what a plant would act on."""
        return np.asarray(self.wrong(truth) & ~np.array(self.flagged, bool))

    def only(self, chosen: Sequence[int]) -> "Judged":
        """The same of some images, by their numbers."""
        return Judged(
            **{
                name: [[row[n] for n in chosen] for row in rows]
                for name, rows in msgspec.structs.asdict(self).items()
            }
        )


class Outcome(msgspec.Struct, frozen=True):
    """What an attack, or one after the other, made of the images.

    Attributes:
        key: how it came about; a state file knows it by this.
        judged: by the defence.
        undefended: what the undefended model says of the same images, [N].
        pictures: PNG files of those that a page shows, by number.
        seconds: that the last attack took.
    """

    key: str
    judged: Judged
    undefended: list[int]
    pictures: dict[int, bytes] = {}
    seconds: float = 0.0


def _nobody(_done: int) -> None:
    """Nobody looks on."""


class Jury(NamedTuple):
    """A defence that judges: its draws depend on its seed, the image's key and the redraw alone.

    The first redraw is the one that ``deepfusion evaluate`` makes without threats.
    """

    defended: Defended
    plan: Plan
    seed: int
    redraws: int
    batch: int = 16
    members: int | None = None

    def judge(self, pixels: Tensor, keys: Sequence[str], *, shown: bool = False) -> Judged:
        """Judge uint8 [N, 3, H, W]; ``shown`` tells people how far it is.

        Raises:
            ModelError: the network's probabilities are not finite.
        """
        with progress("fused predictions", self.redraws * len(pixels), shown=shown) as advance:
            rows = [self._once(pixels, keys, redraw, advance) for redraw in range(self.redraws)]
        labels, flagged, variance, disagreement = zip(*rows, strict=True)
        return Judged([*labels], [*flagged], [*variance], [*disagreement])

    def _once(
        self, pixels: Tensor, keys: Sequence[str], redraw: int, advance: Advance
    ) -> tuple[list[int], list[bool], list[float], list[float]]:
        stream = "evaluate" if redraw == 0 else f"evaluate {redraw}"
        members, thresholds = self.members or self.plan.members, self.plan.thresholds
        found = self.verdicts(pixels, keys, members, thresholds, stream, advance)
        return (
            [v.label for v in found],
            [v.state != "accept" for v in found],
            [v.feature_variance for v in found],
            [v.disagreement for v in found],
        )

    def verdicts(
        self,
        pixels: Tensor,
        keys: Sequence[str],
        members: int,
        thresholds: Thresholds | None,
        stream: str = "evaluate",
        advance: Advance = _nobody,
    ) -> list[Verdict]:
        """Judge uint8 [N, 3, H, W] once, over so many members.

        Raises:
            ModelError: the network's probabilities are not finite.
        """
        found = []
        for at in range(0, len(pixels), self.batch):
            names = keys[at : at + self.batch]
            factors = self.defended.draw(names, seed=self.seed, members=members, stream=stream)
            with torch.no_grad():
                seen = self.defended(pixels[at : at + self.batch] / 255, factors)
            if not torch.isfinite(seen.fused).all():
                raise ModelError(
                    f"{self.defended.name} gives probabilities that are not finite",
                    "check its weights",
                )
            for fused, each, variance in zip(*seen, strict=True):
                outputs = Outputs(fused.numpy(), each.numpy(), float(variance))
                found.append(judge(outputs, thresholds))
            advance(len(names))
        return found


def mean_of(flags: Flags) -> Mean:
    """Mean over redraws [R, N], with an interval that resamples images."""
    found = paired_mean(flags, np.ones_like(flags))
    assert found is not None  # noqa: S101 - there are images
    return found


def count_of(flags: Iterable[bool]) -> Share:
    """Share of [N]."""
    hits = [bool(flag) for flag in flags]
    return share(sum(hits), len(hits))


def robust(outcome: Outcome, labels: Sequence[int]) -> float:
    """Mean accuracy over redraws, in [0, 1]."""
    return float(np.mean(~outcome.judged.wrong(labels)))


def standing(outcome: Outcome, truth: Sequence[int]) -> list[int]:
    """Numbers of the images that some redraw still has right."""
    return [int(n) for n in np.flatnonzero(~outcome.judged.wrong(truth).all(axis=0))]


def merged(
    before: Outcome, after: Outcome, chosen: Sequence[int], truth: Sequence[int], *, evading: bool
) -> Outcome:
    """For each image the worse of two attacks.

    Args:
        before: of all images.
        after: of the chosen ones.
        chosen: their numbers.
        truth: labels of all images.
        evading: worse is more often wrong *and accepted*, then of lower scores; otherwise worse is
            more often wrong, and the first attack keeps what the second does not top.
    """
    part = [truth[n] for n in chosen]
    old, new = (
        _badness(judged, labels, evading=evading)
        for judged, labels in ((before.judged.only(chosen), part), (after.judged, part))
    )
    taken = {n: i for i, n in enumerate(chosen) if new[i] > old[i]}

    def mixed(was: Sequence[T], now: Sequence[T]) -> list[T]:
        return [now[taken[n]] if n in taken else value for n, value in enumerate(was)]

    was, now = msgspec.structs.asdict(before.judged), msgspec.structs.asdict(after.judged)
    judged = Judged(
        **{name: [mixed(a, b) for a, b in zip(was[name], now[name], strict=True)] for name in was}
    )
    place = dict(enumerate(chosen))
    pictures = before.pictures | {
        place[i]: png for i, png in after.pictures.items() if place[i] in taken
    }
    undefended = mixed(before.undefended, after.undefended)
    return Outcome(after.key, judged, undefended, pictures, after.seconds)


def _badness(judged: Judged, truth: Sequence[int], *, evading: bool) -> list[tuple[int, float]]:
    if not evading:
        return [(int(count), 0.0) for count in judged.wrong(truth).sum(axis=0)]
    scores = np.array(judged.feature_variance) * np.array(judged.disagreement)
    harm = judged.harmful(truth).sum(axis=0)
    return [
        (int(count), -float(score)) for count, score in zip(harm, scores.mean(axis=0), strict=True)
    ]
