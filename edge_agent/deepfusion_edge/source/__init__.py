"""Sources of frames behind one protocol."""

from collections.abc import Callable, Mapping

from deepfusion_edge.config import (
    CameraSource,
    FolderSource,
    MqttSource,
    SourceSection,
    VideoSource,
)
from deepfusion_edge.source.base import Source
from deepfusion_edge.source.camera import Camera
from deepfusion_edge.source.folder import Folder
from deepfusion_edge.source.mqtt_images import MqttImages

SOURCES: Mapping[type[SourceSection], Callable[..., Source]] = {
    FolderSource: Folder,
    VideoSource: Camera,
    CameraSource: Camera,
    MqttSource: MqttImages,
}
"""From a section of the configuration to the source it describes."""


def open_source(section: SourceSection) -> Source:
    """Make the source that a section describes; nothing is connected before it is tended.

    Raises:
        InputError: a folder or file is not there, or a password cannot be read.
        UsageError: the variable of a password is not set.
    """
    return SOURCES[type(section)](section)
