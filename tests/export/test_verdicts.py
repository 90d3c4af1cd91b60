"""A thousand images get the same verdicts from ONNX Runtime, from torch and from numpy."""

import numpy as np
import torch

from deepfusion_edge import erosion, fusion
from deepfusion_edge.fusion import Outputs, Threshold, Thresholds, judge
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.onnx import FusedGraph
from deepfusion_export.parity import softmax

IMAGES = 1000


def between(scores, share):
    """A limit that this share of scores reaches, in the middle between two of them."""
    ordered = np.sort(scores)
    at = int((1 - share) * len(ordered))
    return float((ordered[at - 1] + ordered[at]) / 2)


def test_a_thousand_images_get_the_same_verdicts_by_three_routes(case):
    session, graph = OrtSession(case.graph, threads=1), FusedGraph(case.defended).eval()
    seen = {"onnxruntime": [], "torch": [], "numpy": []}
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for at in range(IMAGES):
            image = (draw.random((1, 3, *case.model.size)) ** draw.uniform(0.3, 3)).astype("f4")
            factors = erosion.sample(case.plan.sites, seed=0, stream=at, members=4)
            given = torch.from_numpy(image), torch.from_numpy(factors)
            seen["onnxruntime"].append(session.run(image, factors))
            fused, members, variance = graph(*given)
            seen["torch"].append(Outputs(fused.numpy(), members.numpy(), float(variance)))
            (look,) = case.defended.look(*given)
            members = softmax(look.logits.numpy())
            variance = fusion.feature_variance(look.features.numpy())
            seen["numpy"].append(Outputs(fusion.fuse(members), members, variance))
    variances = np.array([o.feature_variance for o in seen["numpy"]])
    apart = np.array([fusion.disagreement(o.members) for o in seen["numpy"]])
    limits = [Threshold(between(s, 0.2), between(s, 0.05)) for s in (variances, apart)]
    thresholds = Thresholds(*limits, 0.2, IMAGES)
    verdicts = {route: [judge(o, thresholds) for o in own] for route, own in seen.items()}
    said = {route: [(v.label, v.state) for v in own] for route, own in verdicts.items()}
    assert said["onnxruntime"] == said["torch"] == said["numpy"]
    states = [state for _, state in said["numpy"]]
    assert min(states.count(state) for state in ("accept", "suspect", "reject")) > 20
    assert len({label for label, _ in said["numpy"]}) > 1
