"""Sources of frames behind one protocol."""

from collections.abc import Callable

from deepfusion_edge.config import FolderSource
from deepfusion_edge.source.base import Source
from deepfusion_edge.source.folder import Folder

SOURCES: dict[type, Callable[[FolderSource], Source]] = {FolderSource: Folder}
"""From a section of the configuration to the source it describes."""
