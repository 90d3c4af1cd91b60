"""How a step's direction is made of passes: deep fusion's own way, and its rivals'.

Each is a function ``(passes, settings) -> (x, step) -> gradient``; x and gradient are
[N, 3, H, W]. Projection, memory, rounding and counting are the loop's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deepfusion_toolkit.attacks import transforms
from deepfusion_toolkit.attacks.passes import TINY, Passes
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.attacks.settings import Settings

Direction = Callable[[Tensor, int], Tensor]


def fusion(passes: Passes, settings: Settings) -> Direction:
    """Mean gradient over ``samples`` draws of the step's minigroup; MI is the plainest case.

    With a radius, each draw looks at another neighbour of the image.
    """

    def direction(x: Tensor, step: int) -> Tensor:
        members = passes.group(step)
        total = torch.zeros_like(x)
        for _ in range(settings.samples):
            total += passes.gradient(neighbour(passes, x, settings), members)
        return total / settings.samples

    return direction


def vmi(passes: Passes, settings: Settings) -> Direction:
    """Variance tuning: the last step's neighbours correct a gradient (Wang and He, CVPR 2021)."""
    variance: list[Tensor] = []

    def direction(x: Tensor, _step: int) -> Tensor:
        gradient = passes.gradient(x, passes.everyone)
        corrected = gradient + variance[-1] if variance else gradient
        around = torch.zeros_like(x)
        for _ in range(settings.samples):
            around += passes.gradient(neighbour(passes, x, settings), passes.everyone)
        variance[:] = [around / settings.samples - gradient]
        return corrected

    return direction


def pgn(passes: Passes, settings: Settings) -> Direction:
    """Penalised gradient norm: half of a neighbour's gradient, half of one a step on from there.

    Ge et al., NeurIPS 2023, with balance .5; two passes a neighbour and surrogate.
    """

    def direction(x: Tensor, _step: int) -> Tensor:
        total = torch.zeros_like(x)
        for _ in range(settings.samples):
            near = neighbour(passes, x, settings)
            first = passes.gradient(near, passes.everyone)
            beyond = near - settings.alpha * unit(first)
            total += 0.5 * first + 0.5 * passes.gradient(beyond, passes.everyone)
        return total

    return direction


def svre(passes: Passes, settings: Settings) -> Direction:
    """Variance-reduced ensemble: inner steps on one random model each (Xiong et al., CVPR 2022).

    The single models' gradients at the outer point are computed once and kept.
    """
    count = len(passes.everyone)

    def direction(x: Tensor, step: int) -> Tensor:
        single = [passes.gradient(x, [k], one(k, count)) for k in passes.everyone]
        mean = passes.gradient(x, passes.everyone)
        inner, memory = x, torch.zeros_like(x)
        for m in range(settings.samples * count):
            k = chosen(settings.seed, count, step, m)
            gradient = passes.gradient(inner, [k], one(k, count)) - single[k] + mean
            memory = settings.decay * memory + gradient
            inner = into_ball(
                inner + settings.alpha * memory.sign(), passes.clean, settings.eps / 255
            )
        return memory

    return direction


def smer(passes: Passes, settings: Settings) -> Direction:
    """Stochastic minibatch with ensemble reweighing (Tang et al., CVPR 2024), as we read the paper.

    Inner steps run over the models in random order; a model's weight grows with the loss that its
    own step left to the attack.
    """
    count = len(passes.everyone)

    def direction(x: Tensor, step: int) -> Tensor:
        inner, memory, total = x, torch.zeros_like(x), torch.zeros_like(x)
        weight = torch.ones(count, len(x), device=x.device) / count
        for m in range(settings.samples):
            order = transforms.draw([f"{step}/{m}"], count, settings.seed, "smer")[0].argsort()
            for k in order.tolist():
                gradient = unit(passes.gradient(inner, [k], one(k, count)))
                chance = passes.confidence[k]  # [N]; of the true class, or of the wanted one
                weight[k] = torch.exp(1 - chance if settings.targeted else chance)
                share = (weight[k] / weight.sum(0))[:, None, None, None] * count
                memory = settings.decay * memory + share * gradient
                total = total + share * gradient
                inner = into_ball(
                    inner + settings.alpha * memory.sign(), passes.clean, settings.eps / 255
                )
        return total

    return direction


def fia(passes: Passes, settings: Settings) -> Direction:
    """Feature importance: mean gradient at the tap over masked images, then push against it.

    Wang et al., ICCV 2021: masks drop 30 % of the pixels; a mask costs a pass of each surrogate.
    """
    importance: list[Tensor] = []

    def direction(x: Tensor, _step: int) -> Tensor:
        if not importance:
            for k in passes.everyone:
                total: Tensor | float = 0.0
                for m in range(settings.samples):
                    kept = (
                        transforms.draw(passes.keys, x[0].numel(), settings.seed, "fia", m) > 0.3  # noqa: PLR2004
                    )
                    total = total + passes.tap_gradient(x, k, kept.reshape(x.shape).to(x))
                size = total.abs().sum(tuple(range(1, total.ndim)), keepdim=True)  # type: ignore[union-attr]
                importance.append(total / size.clamp_min(TINY))
        return sum(  # type: ignore[return-value]
            unit(passes.weighted_features(x, k, importance[k])) for k in passes.everyone
        )

    return direction


DIRECTIONS: dict[str, Callable[[Passes, Settings], Direction]] = {
    "fusion": fusion,
    "vmi": vmi,
    "pgn": pgn,
    "svre": svre,
    "smer": smer,
    "fia": fia,
}


def neighbour(passes: Passes, x: Tensor, settings: Settings) -> Tensor:
    """Draw a point around x, uniform within ``radius`` epsilons; x itself without a radius."""
    if not settings.radius:
        return x
    flat = transforms.draw(passes.keys, x[0].numel(), settings.seed, "neighbour", passes.draw)
    reach = settings.radius * settings.eps / 255
    return x + reach * (2 * flat.reshape(x.shape).to(x) - 1)


def unit(gradient: Tensor) -> Tensor:
    """Divide by the mean absolute value, image by image."""
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(TINY)


def one(k: int, count: int) -> Tensor:
    """Weights of a fusion in which only surrogate k counts."""
    return torch.eye(count)[k]


def chosen(seed: int, count: int, *stream: int) -> int:
    """Draw one of ``count`` surrogates, the same for every image: it costs one pass."""
    return int(transforms.draw(["surrogate"], 1, seed, *stream)[0, 0] * count)
