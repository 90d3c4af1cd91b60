"""Crafting as a job for workers: they attack, the parent saves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepfusion_toolkit.attacks import Settings, prepare
from deepfusion_toolkit.batches import Made, Workshop
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.engines import Engine, Local, Work
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.sources import Source


@dataclass(frozen=True)
class CraftJob:
    """Attack batches; a chunk is some items, the result their files."""

    sources: tuple[Source, ...]
    dataset: Dataset
    settings: Settings
    batch: int
    bank: tuple[Item, ...]

    @classmethod
    def of(
        cls,
        engine: Engine,
        models: Sequence[Classifier],
        dataset: Dataset,
        settings: Settings,
        batch: int,
        bank: Sequence[Item],
    ) -> "CraftJob":
        """Describe a run; models of the engine ``local`` need not be loaded again."""
        sources = () if isinstance(engine, Local) else tuple(map(Source.of, models))
        bare = replace(dataset, root=dataset.root.absolute(), items=())
        return cls(sources, bare, settings, batch, tuple(bank))

    def open(self, device: str) -> Work[Sequence[Item], list[Made]]:
        """Load, erode and fold the surrogates."""
        surrogates = prepare([source.load() for source in self.sources], self.settings)
        for surrogate in surrogates:
            surrogate.to(device)
        shop = Workshop(self.dataset, surrogates, self.settings, self.batch, self.bank, device)
        return shop.craft

    def names(self, chunk: Sequence[Item]) -> list[str]:
        """Files of a chunk."""
        return [item.file for item in chunk]
