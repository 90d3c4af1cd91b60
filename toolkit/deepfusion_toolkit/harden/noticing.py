"""What the detector is taught by: clean images, each beside itself attacked.

What tells such a pair apart is the attack and nothing else; steganalysis trains on pairs, because
without them a network looks at content for long before it sees noise. Pairs are not mirrored or
turned: an attack keeps the orientation of the networks it was crafted on.
"""

from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.harden import sampling
from deepfusion_toolkit.harden.detector import Detector
from deepfusion_toolkit.harden.images import Images, stream
from deepfusion_toolkit.harden.judge import Exam, auroc
from deepfusion_toolkit.harden.pool import Examples, pairs_of
from deepfusion_toolkit.report.terminal import progress

ROUNDS = 10
"""After each, sources that are noticed least get more pairs."""
STEPS = 100
"""Of a round."""
PAIRS = 32
"""Of a step."""
RATE = 3e-3
DECAY = 1e-3


class Round(msgspec.Struct, frozen=True):
    """What one round brought.

    Attributes:
        number: from 1.
        loss: mean over its steps, in nats; tossing a coin has .69.
        odds: share of the pairs that came from each source.
        auroc: of the detector, held-out examples of each source against clean images.
    """

    number: int
    loss: float
    odds: dict[str, float]
    auroc: dict[str, float]


def teach(
    detector: Detector,
    prepared: Callable[[Tensor], Tensor],
    images: Images,
    examples: Sequence[Examples],
    exam: Exam,
    seed: int,
    device: str = "cpu",
) -> list[Round]:
    """Train a detector; it ends in evaluation mode.

    Args:
        detector: in place.
        prepared: what is done to images [N, 3, H, W] in [0, 1] before they are seen.
        images: clean training images.
        examples: attacked ones, a source each.
        exam: held-out images; its sources are those of ``examples``, in order.
        seed: of every draw.
        device: of torch, where it is trained.

    Raises:
        ModelError: the loss is not finite.
    """
    optimiser = torch.optim.AdamW(detector.to(device).parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, ROUNDS * STEPS, pct_start=0.1)
    counts = [len(one.keys) for one in exam.attacked.values()]
    noticed, rounds = [0.0] * len(examples), list[Round]()
    with progress("teaching the detector", ROUNDS * STEPS) as advance:
        for number in range(1, ROUNDS + 1):
            draw = stream(seed, "detector", number)
            odds, total = sampling.weights(noticed, counts), 0.0
            detector.train()
            for _ in range(STEPS):
                with torch.no_grad():
                    drawn = pairs_of(images, examples, odds, PAIRS, draw)
                    shown = prepared(torch.cat((drawn.clean, drawn.attacked)).to(device))
                loss = detection(detector(shown))
                if not torch.isfinite(loss):
                    raise ModelError("teaching the detector diverged", "report this with the data")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
                advance(1)
            detector.eval()
            found = _noticed(detector, prepared, exam, device)
            noticed = list(found.values())
            shares = dict(zip(found, odds, strict=True))
            rounds.append(Round(number, total / STEPS, shares, found))
    detector.to("cpu")
    return rounds


def detection(levels: Tensor) -> Tensor:
    """Cross-entropy of logits [2N]: clean images, then the same ones attacked."""
    clean, moved = levels.chunk(2)
    return (functional.softplus(clean).mean() + functional.softplus(-moved).mean()) / 2


def _noticed(
    detector: Detector, prepared: Callable[[Tensor], Tensor], exam: Exam, device: str
) -> dict[str, float]:
    def levels(some: Images) -> Tensor:
        with torch.no_grad():
            parts = some.pixels.split(64)
            return torch.cat([detector(prepared((p / 255).to(device))).cpu() for p in parts])

    clean = levels(exam.clean).double().numpy()
    return {n: auroc(clean, levels(i).double().numpy()) for n, i in exam.attacked.items()}
