"""How many images fit: what one image's pass keeps for its backward, against what is free."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deepfusion_toolkit.attacks import Settings, prepare
from deepfusion_toolkit.models import Classifier

MOST = 16
"""Images at once that are enough to keep two cores busy; more gain nothing on a CPU."""
MOST_ON_GPU = 128
SHARE = 0.5
"""Of free memory that a batch may take: kernels need workspace beside what is kept."""
MEMINFO = Path("/proc/meminfo")


def kept_by(model: Classifier, settings: Settings) -> int:
    """Bytes that one image's forward pass keeps for the backward pass."""
    (eroded,) = prepare([model], settings)
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.full((1, 3, *model.size), 0.5, requires_grad=True)
    weights = {p.untyped_storage().data_ptr() for p in eroded.graph_module.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in eroded.graph_module.buffers()}
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        eroded(image, torch.ones(1, eroded.width))
    return sum(size for at, size in seen.items() if at not in weights)


def free(device: str) -> int | None:
    """Bytes that are free; None where nobody says so."""
    if device != "cpu":
        available: int = torch.cuda.mem_get_info(device)[0]
        return available
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    line = next((li for li in lines if li.startswith("MemAvailable:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def fitting(models: Sequence[Classifier], settings: Settings, device: str) -> int:
    """Choose a batch: the largest power of two that half of the free memory holds, at least 1.

    Surrogates that pass together are counted together; minigroups one by one.
    """
    available = free(device)
    most = MOST if device == "cpu" else MOST_ON_GPU
    if available is None:
        return most
    each = sorted((kept_by(model, settings) for model in models), reverse=True)
    together = each[: settings.group] if settings.group else each
    affordable = int(SHARE * available / max(1, sum(together)))
    return max(1, min(most, 1 << max(0, affordable.bit_length() - 1)))
