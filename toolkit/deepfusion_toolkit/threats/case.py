"""A defence, the images on which it is attacked, and what an attack makes of them."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from deepfusion_toolkit.adaptive import Adaptive, compare
from deepfusion_toolkit.attacks import quantise
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.threats.ledger import Ledger
from deepfusion_toolkit.threats.outcome import Jury, Outcome, merged, standing
from deepfusion_toolkit.threats.settings import Settings

Craft = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
"""(images [N, 3, H, W] in [0, 1], labels [N], keys) -> attacked images, not yet rounded."""


class Attack(NamedTuple):
    """One attack at one budget.

    Attributes:
        threat: of ``names.THREATS``.
        name: of the attack, for people.
        eps: budget in units of 1/255.
        effort: what it costs, by name.
        craft: makes the images; an image's draws depend on its key, never on the batch.
        evading: whether it wants to be accepted as well.
        blind: whether it knows nothing of the defence's answers: its set serves other models too.
    """

    threat: str
    name: str
    eps: float
    effort: dict[str, int | float | str]
    craft: Craft
    evading: bool = False
    blind: bool = False

    @property
    def key(self) -> str:
        """What decides about its result, for the state file."""
        effort = " ".join(f"{name}={value}" for name, value in self.effort.items())
        return f"{self.threat}: {self.name} eps={self.eps:g} {effort}"


@dataclass(frozen=True)
class Images:
    """Images at the defence's size.

    Attributes:
        pixels: uint8 [N, 3, H, W].
        labels: N true classes.
        keys: N names, as the device's factors know them.
    """

    pixels: Tensor
    labels: list[int]
    keys: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, chosen: Sequence[int]) -> "Images":
        """Some of them, by number."""
        numbers = list(chosen)
        return Images(
            self.pixels[numbers],
            [self.labels[n] for n in numbers],
            [self.keys[n] for n in numbers],
        )

    @property
    def inputs(self) -> Tensor:
        """float32 [N, 3, H, W] in [0, 1]."""
        return self.pixels / 255


@dataclass(frozen=True)
class Case:
    """What every attacker meets.

    Attributes:
        plain: the target without erosion.
        undefended: the model that defended accuracy is held against: the one before hardening, or
            ``plain`` where that is not at hand.
        jury: the defence, with draws that no attacker knows.
        images: those that are attacked.
        settings: how hard attackers try.
        ledger: finished rows.
        shown: numbers of the images that a page shows.
    """

    plain: Classifier
    undefended: Classifier
    jury: Jury
    images: Images
    settings: Settings
    ledger: Ledger
    shown: tuple[int, ...] = ()
    _sets: dict[str, Tensor] = field(default_factory=dict)

    def set_of(self, attack: Attack) -> Tensor:
        """Attacked images that do not depend on the defence, made once: uint8 [N, 3, H, W]."""
        if attack.key not in self._sets:
            self._sets[attack.key] = self.crafted(attack, self.images)
        return self._sets[attack.key]

    def attacked(self, attack: Attack, before: Outcome | None = None) -> Outcome:
        """Attack, round to 8 bits, judge; or recall that.

        Args:
            attack: what to do.
            before: what the same attacker reached so far: images that are wrong in every redraw are
                spared, unless the attack evades, and the worse of both outcomes counts.
        """
        key = attack.key if before is None else f"{before.key} > {attack.key}"
        return self.ledger.recall(key, Outcome, lambda: self._attacked(key, attack, before))

    def _attacked(self, key: str, attack: Attack, before: Outcome | None) -> Outcome:
        labels = self.images.labels
        chosen = list(range(len(labels)))
        if before is not None and not attack.evading:
            chosen = standing(before, labels)
        if before is not None and not chosen:
            return Outcome(key, before.judged, before.undefended, before.pictures)
        started = time.monotonic()
        part = self.images.only(chosen)
        shown = [i for i, n in enumerate(chosen) if n in self.shown]
        pixels = self.set_of(attack) if attack.blind else self.crafted(attack, part)
        after = self.judged(key, pixels, part, shown, started=started)
        if before is None:
            return after
        return merged(before, after, chosen, labels, evading=attack.evading)

    def judged(
        self,
        key: str,
        pixels: Tensor,
        images: Images,
        pictures: Sequence[int],
        *,
        started: float | None = None,
        shown: bool = False,
    ) -> Outcome:
        """What defence and undefended model say of attacked images, uint8 [N, 3, H, W].

        Args:
            key: see ``Outcome``.
            pixels: the attacked images.
            images: their labels and keys.
            pictures: numbers of those whose pictures are kept.
            started: when their attack began, by ``time.monotonic``.
            shown: tell people how far the judging is.
        """
        chunks = pixels.split(self.settings.batch)
        with torch.no_grad():
            said = [self.undefended(chunk / 255).argmax(1) for chunk in chunks]
        return Outcome(
            key,
            self.jury.judge(pixels, images.keys, shown=shown),
            torch.cat(said).tolist(),
            {i: _png(pixels[i]) for i in pictures},
            0.0 if started is None else round(time.monotonic() - started, 1),
        )

    def adaptive(self, key: str, pixels: Tensor, images: Images) -> Adaptive | None:
        """The plan's policy against always-K on images, uint8 [N, 3, H, W]; None without one."""
        jury, plan = self.jury, self.jury.plan
        policy = plan.policy
        if policy is None:
            return None

        def measured() -> Adaptive:
            first = jury.verdicts(pixels, images.keys, policy.start, policy.thresholds)
            full = jury.verdicts(pixels, images.keys, plan.members, plan.thresholds)
            return compare(
                first,
                full,
                images.labels,
                policy=policy,
                members=plan.members,
                work=plan.work,
            )

        return self.ledger.recall(f"policy: {key}", Adaptive, measured)

    def crafted(self, attack: Attack, images: Images) -> Tensor:
        """Attack images: uint8 [N, 3, H, W] within epsilon."""
        size, made = self.settings.batch, []
        with progress(f"{attack.name}, {attack.eps:g}/255", len(images)) as advance:
            for at in range(0, len(images), size):
                part = images.only(range(at, min(at + size, len(images))))
                found = attack.craft(part.inputs, torch.tensor(part.labels), part.keys)
                made.append(quantise(found, part.inputs, attack.eps))
                advance(len(part))
        return torch.cat(made)


def _png(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
