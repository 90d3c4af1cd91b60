"""The device tests' small signed bundles, here too."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parents[1] / "edge" / "conftest.py"
_NAME = "bundles_for_journeys"
_spec = importlib.util.spec_from_file_location(_NAME, _PATH)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_NAME] = _module  # dataclasses look their module up
_spec.loader.exec_module(_module)

keys, make_keys, make_bundle = _module.keys, _module.make_keys, _module.make_bundle
