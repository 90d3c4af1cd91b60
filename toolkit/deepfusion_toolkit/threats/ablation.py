"""Single, plain ensemble, eroded single, eroded ensemble: what each holds and what it costs.

A form is one line of ``forms``: how many plain inferences it costs and who judges with it. Another
policy is another form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor

import msgspec
import numpy as np
import torch
from torch import Tensor

from deepfusion_toolkit import attacks
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.statistics import Mean
from deepfusion_toolkit.surgery import ErodedModel, Seen
from deepfusion_toolkit.threats.case import Attack, Case, Images
from deepfusion_toolkit.threats.network import FusedNetwork, PlainNetwork, seed_of
from deepfusion_toolkit.threats.outcome import Flags, mean_of
from deepfusion_toolkit.threats.settings import MOST_MEMBERS
from deepfusion_toolkit.timing import interleaved

DRAWS = 20
"""Members that one gradient of the attack on a form sees, whatever K is."""


class FormRow(msgspec.Struct, frozen=True):
    """One form of the model.

    Attributes:
        form, members: what it is, and of how many.
        eroded: K; 0 for plain forms.
        cost: plain inferences that one prediction costs in multiply-adds.
        latency: the same as measured, median ratio in one process.
        clean: accuracy on the originals of the attacked images, mean over redraws.
        robust: accuracy by attack; transfer sets are the same for all forms, white-box PGD goes
            through each form's own output.
    """

    form: str
    members: int
    eroded: int
    cost: float
    latency: float
    clean: Mean
    robust: dict[str, Mean]


@dataclass(frozen=True)
class Form:
    """A way to predict.

    Attributes:
        name, members, cost: see ``FormRow``.
        right: (originals, attacked pixels) -> which are classified as labelled, [R, N].
        network: the same for the attack loop.
        answer: one prediction of one image, for the clock.
    """

    name: str
    members: int
    cost: float
    right: Callable[[Images, Tensor], Flags]
    network: ErodedModel
    answer: Callable[[Tensor], object]


def forms(case: Case, ensemble: Sequence[Classifier]) -> list[Form]:
    """The forms to compare; with other plain models, also an eroded one at the ensemble's cost."""
    work = case.jury.plan.work
    alone = work.network * (1 - work.shared)
    found = [_plain("single", [case.plain])]
    members = {*case.settings.members, case.jury.plan.members}
    if ensemble:
        together = [case.plain, *ensemble]
        found.append(_plain("plain ensemble", together))
        more = (len(together) - work.network) / alone if alone else MOST_MEMBERS
        members.add(min(MOST_MEMBERS, max(1, 1 + floor(more))))
    for count in sorted(members):
        name = "eroded single" if count == 1 else "eroded ensemble"
        found.append(_eroded(case, name, count, cost(case.jury.plan, count)))
    return found


def cost(plan: Plan, members: int) -> float:
    """Plain inferences that K members cost, by multiply-adds: what they share runs once."""
    return plan.work.cost(members)


def compare(
    case: Case, ensemble: Sequence[Classifier], sets: Sequence[Attack], white_box: Sequence[float]
) -> list[FormRow]:
    """Judge every form on the same attacked sets, and attack each one white-box.

    Args:
        case: the defence and its images.
        ensemble: other plain models, fused with the target; may be empty.
        sets: attacks whose images do not depend on the form.
        white_box: epsilons of the attack through each form.
    """
    made = forms(case, ensemble)
    latency = case.ledger.recall(
        "latency " + _names(made), dict[str, float], lambda: _timed(case, made)
    )

    rows = []
    for form in made:
        clean = _judge(case, form, "clean", lambda: case.images.pixels)
        robust = {}
        for one in sets:
            title = f"{one.threat}: {one.name} {one.eps:g}/255"
            robust[title] = _judge(case, form, one.key, partial(case.set_of, one))
        for eps in white_box:
            attack = _through(case, form, eps)
            made_now = partial(case.crafted, attack, case.images)
            robust[f"white-box: PGD {eps:g}/255"] = _judge(case, form, attack.key, made_now)
        rows.append(
            FormRow(
                form=form.name,
                members=form.members,
                eroded=form.members if form.network.width else 0,
                cost=form.cost,
                latency=latency[_name(form)],
                clean=clean,
                robust=robust,
            )
        )
    return rows


def _judge(case: Case, form: Form, what: str, pixels: Callable[[], Tensor]) -> Mean:
    key = f"form {_name(form)}: {what}"
    right = case.ledger.recall(
        key, list[list[bool]], lambda: form.right(case.images, pixels()).tolist()
    )
    return mean_of(np.array(right, bool))


def _plain(name: str, models: Sequence[Classifier]) -> Form:
    network = PlainNetwork(models)

    def answer(image: Tensor) -> Tensor:
        with torch.no_grad():
            said: Seen = network(image, image.new_ones(len(image), 0))
        return said.logits

    def right(images: Images, pixels: Tensor) -> Flags:
        said = torch.cat([answer(chunk / 255).argmax(1) for chunk in pixels.split(32)])
        return np.asarray(said.numpy() == np.array(images.labels))[None]

    return Form(name, len(models), float(len(models)), right, network, answer)


def _eroded(case: Case, name: str, members: int, cost: float) -> Form:
    jury = case.jury._replace(members=members)

    def right(images: Images, pixels: Tensor) -> Flags:
        return ~jury.judge(pixels, images.keys).wrong(images.labels)

    def answer(image: Tensor) -> object:
        factors = jury.defended.draw(["clock"], seed=jury.seed, members=members)
        with torch.no_grad():
            return jury.defended(image, factors)

    return Form(name, members, cost, right, FusedNetwork(jury.defended, members), answer)


def _through(case: Case, form: Form, eps: float) -> Attack:
    eroded = bool(form.network.width)
    draws = max(1, DRAWS // form.members) if eroded else 1
    settings = attacks.Settings(
        eps=eps,
        steps=case.settings.steps,
        step_size=min(eps, 2.5 * eps / case.settings.steps),
        decay=0.0,
        start=True,
        samples=draws,
        erosion=1.0 if eroded else 0.0,
        feature_weight=0.0,
        seed=seed_of("form", case.settings.seed),
    )

    def craft(images: Tensor, labels: Tensor, keys: Sequence[str]) -> Tensor:
        return attacks.attack([form.network], images, labels, keys, settings).images

    effort: dict[str, int | float | str] = {"steps": settings.steps, "eot": draws}
    return Attack("white-box", f"PGD on {_name(form)}", eps, effort, craft)


def _timed(case: Case, made: Sequence[Form]) -> dict[str, float]:
    image = case.images.inputs[:1]
    calls = {_name(form): partial(form.answer, image) for form in made}
    timings = interleaved(calls, base=_name(made[0]), rounds=case.settings.rounds)
    return {name: timing.ratio for name, timing in timings.items()}


def _name(form: Form) -> str:
    return form.name if form.members == 1 else f"{form.name} of {form.members}"


def _names(made: Sequence[Form]) -> str:
    return ", ".join(map(_name, made))
