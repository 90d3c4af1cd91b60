"""Random weights under which every channel is felt, so that a lost erosion factor is seen.

Weights cannot always be downloaded, and fresh ones hide mistakes: a norm that starts at zero, or a
layer scale of 1e-6, lets nothing through that lies behind it; a rectifier whose input is negative
for all images has no gradient.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """RGB [N, 3, *size] in [0, 1]: a few coarse patches of colour, and noise."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draws)
    smooth = functional.interpolate(coarse, size, mode="bilinear")
    noise = torch.rand(count, 3, *size, generator=draws) - 0.5
    return (smooth + 0.3 * noise).clamp(0, 1)


def enliven(net: nn.Module, seen: Tensor, seed: int = 0) -> None:
    """Give a network weights that let every channel through, in place.

    What is constant (a norm's weight and bias, a layer scale, a zero-initialised layer) is drawn
    anew. Then one pass over ``seen`` sets batch statistics, and the weights and biases of layers
    that have a bias, so that each of their channels has variance one (Mishkin and Matas, "All you
    need is a good init", ICLR 2016) and a positive mean over these images: no rectifier behind
    them is closed for all of them.

    Args:
        net: in evaluation mode, and left in it.
        seen: what it takes, [N, 3, H, W]; the laws are to be checked with the same images.
        seed: of the draws.
    """
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norms = {id(p) for m in net.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
        for parameter in net.parameters():
            _redraw(parameter, id(parameter) in norms, draws)
        hooks = []
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - their base
                module.momentum = None  # the average of what is seen: of this one pass
                module.reset_running_stats()
                module.train()
            elif isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                hooks.append(module.register_forward_hook(_settle))
        net(seen)
        for hook in hooks:
            hook.remove()
    net.eval()


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim == 1 and weight.numel() > 1


def _redraw(parameter: Tensor, of_norm: bool, draws: torch.Generator) -> None:
    constant = parameter.numel() > 1 and bool((parameter == parameter.reshape(-1)[0]).all())
    if not constant and not of_norm:
        return
    drawn = torch.rand(parameter.shape, generator=draws)
    if float(parameter.abs().max()):
        parameter.copy_(0.5 + drawn)
    elif parameter.ndim > 1:
        parameter.copy_((drawn - 0.5) * sqrt(12 / parameter[0].numel()))
    else:
        parameter.copy_(0.7 + 0.6 * drawn)


def _settle(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:  # noqa: ANN401 - convolution or linear
    weight, bias = module.weight, module.bias
    channel = 1 if isinstance(module, _CONVOLUTIONS) else output.ndim - 1
    if bias is None or len(weight) != output.shape[channel]:
        return None
    over = [dim for dim in range(output.ndim) if dim != channel]
    spread, mean = torch.std_mean(output, over)
    spread = spread.clamp_min(1e-3)
    weight /= spread.reshape(-1, *[1] * (weight.ndim - 1))
    bias.copy_((bias - mean) / spread + 1)
    settled: Tensor = module.forward(*inputs)
    return settled
