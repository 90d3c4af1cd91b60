"""Models in: every form of SPEC, and one line for everything that is no classifier."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from deepfusion_edge.errors import ModelError, StorageError, UsageError
from deepfusion_edge.image import to_input
from deepfusion_toolkit import names, nets
from deepfusion_toolkit.models import Classifier, load, require_same_classes, save
from deepfusion_toolkit.surgery.graph import export_program
from tests.toolkit import tiny_nets

HERE = "tests.toolkit.test_models"


def breaks() -> nn.Module:
    raise KeyError("weights")


class Named(NamedTuple):
    logits: torch.Tensor


class WithNames(nn.Module):
    """Scores under a name, as transformers' classifiers give them."""

    input_size = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mean()

    def forward(self, x):
        return Named(self.inner(x))


class Mean(nn.Module):
    """The smallest classifier: mean colour times a matrix."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def with_size() -> nn.Module:
    net = Mean()
    net.input_size = (20, 30)
    return net


def no_module() -> str:
    return "a string"


def refused(spec, said: str, kind=ModelError) -> None:
    with pytest.raises(kind, match=said) as caught:
        load(str(spec))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    net = Mean().eval()
    path = tmp_path_factory.mktemp("models") / "mean.pt2"
    save(net, (16, 24), path)
    return net, path


def test_a_saved_model_loads_as_it_was(saved):
    net, path = saved
    model = load(str(path))
    assert (model.name, model.size, model.classes) == ("mean", (16, 24), 5)
    image = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(image), net(image))
    torch.testing.assert_close(model(image[:1]), net(image[:1]))


def test_a_loaded_model_is_frozen_and_stays_in_evaluation(saved):
    model = load(str(saved[1]))
    assert not any(p.requires_grad for p in model.parameters())
    assert model.train() is model
    assert not model.training
    image = torch.rand(1, 3, 16, 24, requires_grad=True)
    model(image).sum().backward()
    assert image.grad is not None


def test_saving_leaves_nothing_else_behind(saved, tmp_path):
    save(saved[0], (16, 24), tmp_path / "deep" / "model.pt2")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.pt2"]


def test_saving_where_nothing_can_be_written_is_refused(saved, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        save(saved[0], (16, 24), tmp_path / "file" / "model.pt2")


def test_a_batch_fixed_at_export_is_refused(tmp_path):
    path = tmp_path / "fixed.pt2"
    torch.export.save(export_program(Mean(), (torch.rand(4, 3, 8, 8),), batch_of=()), path)
    refused(path, "fixed to a batch of 4")


def test_an_image_size_left_open_is_refused(tmp_path):
    path = tmp_path / "open.pt2"
    free = {0: torch.export.Dim("N"), 2: torch.export.Dim("H", min=4), 3: torch.export.Dim("W")}
    image = (torch.rand(4, 3, 8, 9),)
    torch.export.save(torch.export.export(Mean().eval(), image, dynamic_shapes=(free,)), path)
    refused(path, "takes images of any size")


def test_other_inputs_than_one_image_are_refused(tmp_path):
    path = tmp_path / "grey.pt2"
    torch.export.save(export_program(nn.Flatten(), (torch.rand(4, 1, 8, 8),), batch_of=(0,)), path)
    refused(path, "one input")


def test_files_that_are_no_model_are_refused(tmp_path, saved):
    refused(tmp_path / "missing.pt2", "does not exist")
    garbage = tmp_path / "garbage.pt2"
    garbage.write_bytes(b"\x00not a model" * 100)
    refused(garbage, "is not a .pt2 file")
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(saved[1].read_bytes()[:2000])
    refused(cut, "is not a .pt2 file")


def test_an_archive_that_holds_no_model_is_refused(tmp_path):
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "no model")
    refused(path, "cannot be loaded")


def test_a_spec_of_no_known_form_is_refused():
    refused("resnet50", "none of the known forms", UsageError)


def test_a_factory_gives_a_classifier():
    model = load(f"{HERE}:with_size")
    assert (model.name, model.size, model.classes) == ("with_size", (20, 30), 5)
    assert load(f"{HERE}:Mean", image_size=(8, 8)).size == (8, 8)


def test_scores_under_the_name_logits_are_taken():
    model = load(f"{HERE}:WithNames")
    image = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(image), model.core.net.inner(image))
    assert model.classes == 5


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("nothing", "cannot be imported"),
        ("breaks", r"breaks \(KeyError: 'weights'\)"),
        ("no_module", "returned str, not a torch.nn.Module"),
        ("Mean", "does not say its input size"),
    ],
)
def test_a_bad_factory_is_refused(attribute, said):
    refused(f"{HERE}:{attribute}", said)


def test_a_factory_in_no_module_is_refused():
    refused("no.such.module:net", "cannot be imported")


def test_a_module_that_fails_to_import_is_refused(tmp_path, monkeypatch):
    (tmp_path / "divides_by_zero.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused("divides_by_zero:net", r"cannot be imported \(ZeroDivisionError: ")


class Wrong(nn.Module):
    """Outputs that are no class scores."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x):
        pooled = x.mean((2, 3))
        one = {"one image": pooled[:1], "one class": pooled[:, :1]}
        return {"maps": x, "tuple": (pooled, pooled), **one}[self.kind]


@pytest.mark.parametrize("kind", ["maps", "tuple", "one image", "one class"])
def test_outputs_that_are_no_logits_are_refused(kind):
    with pytest.raises(ModelError, match=r"class scores are \(2, C\)"):
        Classifier(Wrong(kind), name="wrong", size=(8, 8))


def test_a_network_for_other_images_is_refused():
    with pytest.raises(ModelError, match="does not run on RGB images of 8x8") as caught:
        Classifier(nn.Sequential(nn.Conv2d(1, 4, 3)), name="grey", size=(8, 8))
    assert "\n" not in str(caught.value)


def test_models_must_fit_each_other_and_the_data():
    five = Classifier(Mean(5), name="five", size=(8, 8))
    four = Classifier(Mean(4), name="four", size=(8, 8))
    require_same_classes([five, five], None)
    require_same_classes([four], "abcd")
    require_same_classes([], "abcd")
    with pytest.raises(ModelError, match="four has 4 outputs, five has 5 classes"):
        require_same_classes([five, four], None)
    with pytest.raises(ModelError, match="five has 5 outputs, the data set has 4 classes"):
        require_same_classes([four, five], "abcd")


@pytest.mark.parametrize("shape", [(50, 70), (20, 17), (24, 96)])
def test_resizing_is_the_devices(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    model = Classifier(Mean(), name="mean", size=(24, 32))
    ours = model.fit(torch.from_numpy(to_input(pixels, *shape)))
    theirs = torch.from_numpy(to_input(pixels, 24, 32))
    assert ours.shape == theirs.shape == (1, 3, 24, 32)
    assert float((ours - theirs).abs().max()) <= 1.02 / 255
    assert float((ours - theirs).abs().mean()) <= 0.4 / 255  # it rounds after each direction


def test_the_families_are_those_that_users_can_name():
    assert tuple(nets.FAMILIES) == names.FAMILIES


@pytest.mark.parametrize("family", sorted(nets.FAMILIES))
@pytest.mark.parametrize("side", [32, 64, 128])
def test_the_small_families_take_images_of_32_to_128_pixels(family, side):
    torch.manual_seed(0)
    net = nets.FAMILIES[family](6)
    assert 100_000 < sum(p.numel() for p in net.parameters()) < 400_000
    model = Classifier(net, name=family, size=(side, side))
    assert model.classes == 6
    logits = model(torch.rand(2, 3, side, side))
    assert float(logits.std()) > 0


def test_timm_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    refused("timm:resnet18", r"needs the package timm .*pip install deepfusion-toolkit\[timm\]")


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="extra timm is not installed")


@needs_timm
def test_timm_says_which_names_and_weights_are_not_there():
    # a fresh process: torchvision built for another torch must not keep timm from being imported
    done = fresh(
        "import os\n"
        "os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "os.environ['HF_HOME'] = os.devnull\n"
        "from deepfusion_edge.errors import ModelError\n"
        "from deepfusion_toolkit.models import load\n"
        "from deepfusion_toolkit.models.vision import import_vision\n"
        "timm = import_vision('timm')\n"
        "print(timm.is_model('resnet18'))\n"
        "for name in ('no_such_model', 'resnet18.a1_in1k'):\n"
        "    try:\n"
        "        load('timm:' + name)\n"
        "    except ModelError as error:\n"
        "        print(error)\n"
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert lines[0] == "True"
    assert "timm has no model 'no_such_model'" in lines[1]
    assert "timm:resnet18.a1_in1k has no weights here" in lines[2]


def test_every_tiny_family_survives_the_file(tmp_path):
    net = tiny_nets.FAMILIES["transformer"]().eval()
    save(net, tiny_nets.SIZE, tmp_path / "net.pt2")
    data, _ = tiny_nets.images(3, seed=1)
    torch.testing.assert_close(load(str(tmp_path / "net.pt2"))(data), net(data))
