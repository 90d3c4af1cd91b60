"""Classifiers of the transformers library, built from configurations: laws and ONNX Runtime.

The library is in no extra: these tests run where somebody has installed it.
"""

from importlib.util import find_spec

import pytest
import torch

from benchmarks.coverage.laws import examine
from benchmarks.coverage.lively import enliven, images
from benchmarks.coverage.measure import Row, with_onnx
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.models.classifier import Scores
from deepfusion_toolkit.models.vision import import_vision

pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed"),
    pytest.mark.filterwarnings("default"),  # the library's own
]

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5}
CASES = {
    "ViT": SMALL | {"intermediate_size": 64, "image_size": 32, "patch_size": 8},
    "DeiT": SMALL | {"intermediate_size": 64, "image_size": 32, "patch_size": 8},
    "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_labels": 5},
    "ConvNext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "num_labels": 5},
    "MobileNetV2": {"depth_multiplier": 0.35, "image_size": 32, "num_labels": 5},
}


@pytest.mark.parametrize("family", CASES)
def test_a_classifier_of_transformers_holds_the_laws_and_runs(family):
    transformers = import_vision("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**CASES[family])
    net = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    seen = images(8, (32, 32))
    enliven(net, seen)
    model = Classifier(net, name=family, size=(32, 32))
    assert isinstance(model.core, Scores)
    assert model.classes == 5
    assert examine(model, seen).hold
    row = with_onnx(Row(family, family, 32), model, seen)
    assert row.passed, row.failure
