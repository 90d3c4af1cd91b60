"""Which preprocessing stages there are, as a plan names them and as people type them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from deepfusion_edge.errors import UsageError


class Jpeg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="jpeg"):
    """Code and decode as baseline JPEG, 4:4:4, with the standard tables at a quality."""

    quality: Annotated[int, Meta(ge=1, le=100)]


class BitDepth(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bits"
):
    """Keep so many bits of each channel (feature squeezing, Xu et al., NDSS 2018)."""

    bits: Annotated[int, Meta(ge=1, le=7)]


class Median(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="median"
):
    """The median of 3x3 pixels, channel by channel; edge pixels are repeated outwards."""


class ResizePad(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="resize-pad"
):
    """Shrink to a share of each side and centre on black.

    Without the random numbers of Xie et al. (ICLR 2018): those fall to averaging over draws, and a
    device must give the same answer twice.
    """

    share: Annotated[float, Meta(ge=0.1, lt=1.0)]


Stage = Jpeg | BitDepth | Median | ResizePad

_FIELDS = {"jpeg": "quality", "bits": "bits", "median": None, "resize-pad": "share"}
FORMS = "jpeg:QUALITY (1..100), bits:BITS (1..7), median or resize-pad:SHARE (0.1 to below 1)"


def parse(text: str) -> Stage:
    """Read a stage as typed, such as ``jpeg:75``.

    Raises:
        UsageError: no such stage, or a value out of its range.
    """
    kind, colon, value = text.partition(":")
    field = _FIELDS.get(kind) or "value"  # which "median" refuses
    given = {"kind": kind, field: value} if colon else {"kind": kind}
    try:
        stage: Stage = msgspec.convert(given, Stage, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"preprocessing '{text}' is none ({error})", f"give --preprocess {FORMS}"
        ) from error
    return stage


def spell(stage: Stage) -> str:
    """Write a stage as it is typed."""
    return ":".join(str(value) for value in msgspec.to_builtins(stage).values())
