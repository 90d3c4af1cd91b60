"""The plan: where members begin to differ, how strongly, and how many, at what cost.

A small explicit grid, judged on held-out images. The cost is predicted by the export's model,
``1 + (K - 1) * (1 - share)`` plain inferences, see ``surgery.cost``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deepfusion_edge.erosion import Site
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit.defence import Defended, scaled
from deepfusion_toolkit.harden.judge import Exam, Figures, examine
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel, erode, members_cost, prefix_share

LADDER = (2.0, 1.0, 0.5)
"""Strengths that are tried, as multiples of those of training, strongest first."""
WEAK = (0.25, 0.1)
"""More of them for a network that was not trained to bear erosion."""
MEMBERS = (2, 4, 8)
EQUAL = 0.01
"""Plans whose worth differs less are equally good: then the cheaper one is taken."""


@dataclass(frozen=True)
class Point:
    """One plan of the grid.

    Attributes:
        model: the defence: the network eroded at its sites, its members fused.
        share: of multiply-adds before the first site, in [0, 1].
        strength: multiple of the strengths of training.
        members: K.
        figures: on held-out images.
    """

    model: Defended
    share: float
    strength: float
    members: int
    figures: Figures

    @property
    def cost(self) -> float:
        """Predicted, in plain inferences."""
        return members_cost(self.members, self.share)


@dataclass(frozen=True)
class Grid:
    """Every place, strength and K that is tried: each place is a network of its own.

    Attributes:
        base: the model.
        places: eroded networks and their shares; they all have the model's weights.
        members: values of K.
        max_cost: in plain inferences.
    """

    base: Classifier
    places: tuple[tuple[Defended, float], ...]
    members: tuple[int, ...]
    max_cost: float

    @classmethod
    def of(cls, model: Classifier, tails: Sequence[tuple[Site, ...]], settings: Settings) -> "Grid":
        """Erode the model at each of these places.

        Raises:
            UsageError: even the cheapest plan costs more than --max-cost.
        """
        eroded = [erode(model, tail) for tail in tails]
        places = tuple(
            (
                Defended(one, rule=settings.fusion, stages=settings.stages),
                prefix_share(one.graph_module),
            )
            for one in eroded
        )
        members = MEMBERS if settings.members is None else (settings.members,)
        cheapest = min(members_cost(min(members), share) for _, share in places)
        if cheapest > settings.max_cost:
            raise UsageError(
                f"the cheapest plan costs {cheapest:.2f} plain inferences, max-cost is "
                f"{settings.max_cost:g}",
                "raise --max-cost or lower --members",
            )
        return cls(model, places, members, settings.max_cost)

    def search(self, exam: Exam, seed: int) -> list[Point]:
        """Judge every plan that can be paid."""
        found = []
        strengths = LADDER if exam.attacked else LADDER + WEAK
        with progress("searching the plan", len(self.places) * len(strengths)) as advance:
            for model, share in self.places:
                paid = [k for k in self.members if members_cost(k, share) <= self.max_cost]
                for strength in strengths:
                    one = self._at(model, strength)
                    figures = examine(one, exam, paid, seed) if paid else {}
                    found += [Point(one, share, strength, k, f) for k, f in figures.items()]
                    advance(1)
        return found

    def _at(self, model: Defended, strength: float) -> Defended:
        (eroded,) = model.bases
        sites = scaled(eroded.sites, strength)
        weaker = ErodedModel(self.base, sites, eroded.graph_module)
        return Defended(weaker, rule=model.rule, stages=model.stages)


def ranked(points: Sequence[Point], least: float) -> list[Point]:
    """Plans that keep the clean accuracy, best first.

    The worthiest comes first, among equals the cheapest. Where nothing was attacked, worth says
    nothing: then the strongest erosion, because members that do not differ tell nothing.
    """
    kept = [p for p in points if p.figures.clean >= least]
    if all(not p.figures.robust for p in points):
        return sorted(kept, key=lambda p: (-p.strength, -p.members, p.cost))
    return sorted(kept, key=lambda p: (-round(p.figures.worth / EQUAL), p.cost, -p.strength))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Plans that no other one beats in everything: clean, robust, detection and cost."""

    def goods(point: Point) -> tuple[float, ...]:
        figures = point.figures
        return figures.clean, figures.mean_robust, figures.auroc, -point.cost

    def beaten(point: Point) -> bool:
        own = goods(point)
        return any(
            other != own and all(a >= b for a, b in zip(other, own, strict=True))
            for other in map(goods, points)
        )

    return sorted((p for p in points if not beaten(p)), key=lambda p: p.cost)
