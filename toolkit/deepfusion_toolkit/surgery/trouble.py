"""Where a network's numbers stop being finite."""

from torch import Tensor, isfinite, no_grad
from torch.fx import Interpreter, Node

from deepfusion_toolkit.surgery.insert import ErodedModel


class _Watcher(Interpreter):
    def __init__(self, model: ErodedModel) -> None:
        super().__init__(model.graph_module)
        self.first: str | None = None

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        # a weight counts where it is used: its own name says little
        if self.first is None and n.op != "get_attr" and _broken(result):
            self.first = n.name
        return result


def _broken(value: object) -> bool:
    return (
        isinstance(value, Tensor) and value.is_floating_point() and not bool(isfinite(value).all())
    )


def first_not_finite(model: ErodedModel, image: Tensor, factors: Tensor) -> str | None:
    """Name the first layer whose result is not finite; None if all are.

    Args:
        model: an eroded network.
        image: [N, 3, H, W] of the model's own size.
        factors: [N, F].
    """
    watcher = _Watcher(model)
    with no_grad():
        watcher.run(image, factors)
    return watcher.first
