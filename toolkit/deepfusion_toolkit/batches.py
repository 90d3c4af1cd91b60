"""One batch of a set: read, attack, round, save; the same bytes alone and in company."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj

import torch
from PIL import Image
from torch import Tensor

from deepfusion_edge.errors import StorageError
from deepfusion_toolkit.attacks import Attacked, Settings, attack, quantise
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.files import replacing, sha256_of
from deepfusion_toolkit.journal import Crafted
from deepfusion_toolkit.surgery import ErodedModel

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Workshop:
    """What attacks batches of a data set.

    Attributes:
        bank: files of the images that Admix and mix-up draw from.
        batch: images at once; a short batch is filled, because kernels depend on its size.
        device: where the surrogates are.
    """

    dataset: Dataset
    surrogates: Sequence[ErodedModel]
    settings: Settings
    out: Path
    batch: int
    bank: Sequence[Item] = ()
    device: str = "cpu"

    def craft(self, items: Sequence[Item], notify: Notify) -> Iterator[Crafted]:
        """Attack and save images of one size; halve the batch, for all that follow, if memory ends.

        Yields:
            Each image as soon as its file is whole.

        Raises:
            ModelError: a surrogate's numbers are not finite.
            StorageError: an image does not fit into memory alone, or cannot be written.
        """
        at, size = 0, self.batch
        while at < len(items):
            part = items[at : at + size]
            try:
                clean, attacked = self._attack(part, size)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise StorageError(
                        f"{part[0].file} does not fit into memory alone", "use smaller surrogates"
                    ) from error
                before, size = size, size // 2
                torch.cuda.empty_cache()
                notify(f"memory ended at {before} images at once, going on with {size}")
                continue
            for index, item in enumerate(part):
                one = slice(index, index + 1)
                yield self._saved(item, clean[one], attacked.images[one], attacked.passes, size)
            at += len(part)

    def _attack(self, part: Sequence[Item], size: int) -> tuple[Tensor, Attacked]:
        filled = [*part, *[part[-1]] * (size - len(part))]
        clean = folder.stack(self.dataset, filled)
        targeted = self.settings.targeted
        wanted = [i.target if targeted and i.target is not None else i.label for i in filled]
        bank = self._bank(clean)
        images, passes = attack(
            self.surrogates,
            clean.to(self.device),
            torch.tensor(wanted, device=self.device),
            [i.file for i in filled],
            self.settings,
            None if bank is None else bank.to(self.device),
        )
        return clean, Attacked(images.cpu(), passes)

    def _saved(self, item: Item, clean: Tensor, image: Tensor, passes: int, size: int) -> Crafted:
        saved = quantise(image, clean, self.settings.eps)
        name = saved_as(item)
        _save(saved[0], self.out / name)
        return Crafted(
            file=name,
            source=item.file,
            label=item.label,
            target=item.target,
            linf=int((saved.int() - torch.round(clean * 255).int()).abs().max()),
            passes=passes,
            batch=size,
            clean_sha256=sha256_of(self.dataset.root / item.file),
            sha256=sha256_of(self.out / name),
        )

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


def _save(pixels: Tensor, path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    buffer.seek(0)
    with replacing(path) as partial, partial.open("wb") as file:
        copyfileobj(buffer, file)
