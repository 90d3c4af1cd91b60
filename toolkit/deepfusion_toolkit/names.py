"""What users type or leave out: names and a default, kept light for the command line."""

DEEP_FUSION = "deep-fusion"
BASELINES = (
    "fgsm", "pgd", "mi", "ni", "di", "ti", "si", "admix", "bsr", "vmi", "pgn", "svre", "smer",
    "fia", "logit", "cw",
)  # fmt: skip
ATTACKS = (DEEP_FUSION, *BASELINES)
GEOMETRIC = ("di", "turn", "bsr")
TRANSFORMS = (*GEOMETRIC, "si", "admix")
FAMILIES = ("residual", "depthwise", "fire", "dense", "plain", "wide")
"""Of the small nets that ``deepfusion train`` makes."""
FUSIONS = ("mean-probabilities", "mean-logits", "trimmed-mean", "median")
ENGINES = ("local", "processes", "ray")
THREATS = ("transfer", "transfer-aware", "white-box", "query")
METHODS = ("transfer", "adversarial", "distillation")
"""Ways to train a defended model."""
HARDEN_EPOCHS = 30
"""Of its training, at most."""
KINDS = ("skip", "activation", "norm")
PARTS = (
    "steps", "step_size", "decay", "nesterov", "loss", "group", "erosion", "kinds", "residual",
    "feature_weight", "adaptive", "tap", "transforms", "kernel", "samples", "radius", "mixup",
    "precision", "compile",
)  # fmt: skip
"""Fields of an attack's ``Settings`` that a user may set one by one."""
