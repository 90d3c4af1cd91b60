"""What decides about training: an interrupted run is resumed only if all of it is the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deepfusion_toolkit.harden.images import Images
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.sources import HERE

LATER = {"members", "fusion", "max_cost", "false_positive_rate"}
"""Settings that count after training only: a run may be resumed with others."""
SHOWN = 12
"""Digits of a hash that tell two things apart in a message."""


def identity_of(
    model: Classifier,
    surrogates: Sequence[Classifier],
    images: Images,
    held: Images,
    settings: Settings,
) -> dict[str, Any]:
    """Names and values for ``checkpoint``."""
    digest = hashlib.sha256()
    for part in (images, held):
        digest.update(repr((part.keys, part.labels.tolist(), part.pixels.shape)).encode())
        digest.update(part.pixels.contiguous().numpy().tobytes())
    return {
        **{n.replace("_", "-"): v for n, v in asdict(settings).items() if n not in LATER},
        "model": fingerprint(model.core)[:SHOWN],
        "surrogates": [fingerprint(s.core)[:SHOWN] for s in surrogates],
        "images": digest.hexdigest()[:SHOWN],
        "versions": list(HERE),
    }
