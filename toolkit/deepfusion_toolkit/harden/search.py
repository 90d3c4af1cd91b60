"""The plan: where members begin to differ, how strongly, and how many, at what cost.

A small explicit grid, judged on held-out images. The cost is predicted by ``surgery.cost``, as the
latency benchmark does: arithmetic before and behind the first site, and the factors' own.
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
from deepfusion_toolkit.surgery import ErodedModel, Work, erode, work_of
from deepfusion_toolkit.surgery.graph import trace

LADDER = (2.0, 1.0, 0.5)
"""Strengths that are tried, as multiples of those of training, strongest first."""
WEAK = (0.25, 0.1)
"""More of them for a network that was not trained to bear erosion."""
MEMBERS = (2, 4, 8)
EQUAL = 0.01
"""Plans whose worth is not further from the best are as good: then the cheapest is taken. Of two
hundred images two are as much."""


@dataclass(frozen=True)
class Point:
    """One plan of the grid.

    Attributes:
        model: the defence: the network eroded at its sites, its members fused.
        work: what members cost.
        strength: multiple of the strengths of training.
        members: K.
        figures: on held-out images.
    """

    model: Defended
    work: Work
    strength: float
    members: int
    figures: Figures

    @property
    def cost(self) -> float:
        """Predicted, in plain inferences."""
        return self.work.cost(self.members)

    @property
    def share(self) -> float:
        """Of multiply-adds before the first site, in [0, 1]."""
        return self.work.shared


@dataclass(frozen=True)
class Grid:
    """Every place, strength and K that is tried: each place is a network of its own.

    Attributes:
        base: the model.
        places: eroded networks and what they cost; they all have the model's weights.
        members: values of K.
        max_cost: in plain inferences.
    """

    base: Classifier
    places: tuple[tuple[Defended, Work], ...]
    members: tuple[int, ...]
    max_cost: float

    @classmethod
    def of(
        cls,
        model: Classifier,
        tails: Sequence[tuple[Site, ...]],
        settings: Settings,
        network: float = 1.0,
    ) -> "Grid":
        """Erode the model at each of these places.

        Args:
            model: with everything that hardening puts beside it.
            tails: the places.
            settings: of hardening.
            network: see ``Work``.

        Raises:
            UsageError: even the cheapest plan costs more than --max-cost.
        """
        eroded = [erode(model, tail) for tail in tails]
        traced = trace(model.core, model.size)
        places = tuple(
            (
                Defended(one, rule=settings.fusion, stages=settings.stages),
                work_of(traced, one.sites)._replace(network=network),
            )
            for one in eroded
        )
        members = MEMBERS if settings.members is None else (settings.members,)
        cheapest = min(work.cost(min(members)) for _, work in places)
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
            for model, work in self.places:
                paid = [k for k in self.members if work.cost(k) <= self.max_cost]
                for strength in strengths:
                    one = self._at(model, strength)
                    figures = examine(one, exam, paid, seed) if paid else {}
                    found += [Point(one, work, strength, k, f) for k, f in figures.items()]
                    advance(1)
        return found

    def _at(self, model: Defended, strength: float) -> Defended:
        (eroded,) = model.bases
        sites = scaled(eroded.sites, strength)
        weaker = ErodedModel(self.base, sites, eroded.graph_module)
        return Defended(weaker, rule=model.rule, stages=model.stages)


def ranked(points: Sequence[Point], least: float) -> list[Point]:
    """Plans that keep the clean accuracy, best first.

    First those that are as good as the worthiest, the cheapest of them before the others; then the
    rest, the worthiest before the others. Where nothing was attacked, worth says nothing: then the
    strongest erosion, because members that do not differ tell nothing.
    """
    kept = [p for p in points if p.figures.clean >= least]
    if all(not p.figures.robust for p in points):
        return sorted(kept, key=lambda p: (-p.strength, -p.members, p.cost))
    near = max((p.figures.worth for p in kept), default=0.0) - EQUAL - 1e-9
    equals = [p for p in kept if p.figures.worth >= near]
    others = [p for p in kept if p.figures.worth < near]
    return [
        *sorted(equals, key=lambda p: (p.cost, -p.strength)),
        *sorted(others, key=lambda p: -p.figures.worth),
    ]


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
