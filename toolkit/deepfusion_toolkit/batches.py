"""One batch of a set: read, attack, round; the same bytes alone and in company.

Attacking and saving are apart: a worker attacks, whoever keeps the journal saves.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from deepfusion_edge.errors import StorageError
from deepfusion_toolkit.attacks import Settings, attack, quantise
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.files import replacing, sha256_of
from deepfusion_toolkit.journal import Crafted
from deepfusion_toolkit.surgery import ErodedModel

Notify = Callable[[str], None]


class Made(NamedTuple):
    """One attacked image, not saved yet: its line of the manifest, and its file."""

    record: Crafted
    png: bytes


@dataclass
class Workshop:
    """What attacks batches of a data set.

    Attributes:
        batch: images at once; a short batch is filled, because kernels depend on its size. It is
            halved for good where memory ends.
        bank: files of the images that Admix and mix-up draw from.
        device: where the surrogates are.
    """

    dataset: Dataset
    surrogates: Sequence[ErodedModel]
    settings: Settings
    batch: int
    bank: Sequence[Item] = ()
    device: str = "cpu"

    def craft(self, chunk: Sequence[Item], notify: Notify) -> list[Made]:
        """Attack images of one size; halve the batch if memory ends.

        Raises:
            ModelError: a surrogate's numbers are not finite.
            StorageError: an image does not fit into memory alone.
        """
        made: list[Made] = []
        while len(made) < len(chunk):
            size = self.batch
            part = chunk[len(made) : len(made) + size]
            try:
                made += self._attack(part, size)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise StorageError(
                        f"{part[0].file} does not fit into memory alone", "use smaller surrogates"
                    ) from error
                self.batch = size // 2
                torch.cuda.empty_cache()
                notify(f"memory ended at {size} images at once, going on with {self.batch}")
        return made

    def _attack(self, part: Sequence[Item], size: int) -> list[Made]:
        filled = [*part, *[part[-1]] * (size - len(part))]
        clean = folder.stack(self.dataset, filled)
        targeted = self.settings.targeted
        wanted = [i.target if targeted and i.target is not None else i.label for i in filled]
        bank = self._bank(clean)
        attacked = attack(
            self.surrogates,
            clean.to(self.device),
            torch.tensor(wanted, device=self.device),
            [i.file for i in filled],
            self.settings,
            None if bank is None else bank.to(self.device),
        )
        saved = quantise(attacked.images.cpu(), clean, self.settings.eps)
        distance = (saved.int() - torch.round(clean * 255).int()).abs().amax((1, 2, 3))
        made = []
        for index, item in enumerate(part):
            png = _encoded(saved[index])
            record = Crafted(
                file=saved_as(item),
                source=item.file,
                label=item.label,
                target=item.target,
                linf=int(distance[index]),
                passes=attacked.passes,
                batch=size,
                clean_sha256=sha256_of(self.dataset.root / item.file),
                sha256=hashlib.sha256(png).hexdigest(),
            )
            made.append(Made(record, png))
        return made

    def _bank(self, clean: Tensor) -> Tensor | None:
        if not self.bank:
            return None
        images = [folder.stack(self.dataset, [item]) for item in self.bank]
        size = (clean.shape[-2], clean.shape[-1])
        return torch.cat(
            [torch.nn.functional.interpolate(i, size, mode="bilinear") for i in images]
        )


def saved_as(item: Item) -> str:
    """The file of an attacked image, relative to its set."""
    return str(Path(item.file).with_suffix(".png"))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended: torch's own for a GPU, its allocator's for a CPU."""
    return (
        isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        or "DefaultCPUAllocator" in str(error)
        or "not enough memory" in str(error)
    )


def save(made: Made, out: Path) -> None:
    """Write an attacked image into its set, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(out / made.record.file) as partial, partial.open("wb") as file:
        copyfileobj(io.BytesIO(made.png), file)


def _encoded(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
