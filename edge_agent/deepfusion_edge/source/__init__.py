"""Sources of frames behind one protocol."""

from deepfusion_edge.config import FolderSource
from deepfusion_edge.source.base import Source
from deepfusion_edge.source.folder import Folder

SOURCES = {FolderSource: Folder}
"""From a section of the configuration to the source it describes."""


def open_source(section: FolderSource) -> Source:
    """Make the source that a section describes; nothing is connected before it is tended."""
    return SOURCES[type(section)](section)
