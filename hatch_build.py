"""A real wheel of the toolkit needs the agent's wheel; an editable checkout already holds it."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NeedsEdge(BuildHookInterface[Any]):
    """Add ``deepfusion-edge`` of the same version to standard wheels only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Extend the requirements; hatchling passes the ``version`` "standard" or "editable"."""
        if version == "standard":
            build_data["dependencies"].append(f"deepfusion-edge=={self.metadata.version}")
