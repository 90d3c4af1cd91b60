"""Architectures of the coverage table: the smallest variant of each, at a small image size.

An entry is ``library:name side [option=value ...] [pt2]``; options go to the library's own
constructor, ``pt2`` means that the network is saved and loaded as a ``.pt2`` file before.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import nn

from deepfusion_toolkit.models.vision import import_vision

CLASSES = 10
_SAVED = "pt2"

FAMILIES = {
    "VGG": "timm:vgg11 64; timm:vgg11_bn 64",
    "ResNet": "timm:resnet18 64; timm:resnet18 64 pt2; timm:resnet14t 64; torchvision:resnet18 64",
    "ResNet v2": "timm:resnetv2_50 64",
    "ResNeXt": "timm:resnext26ts 64; torchvision:resnext50_32x4d 64",
    "Wide ResNet": "timm:wide_resnet50_2 64",
    "SENet": "timm:seresnet18 64",
    "DenseNet": "timm:densenet121 64",
    "Inception": "timm:inception_v3 96; torchvision:googlenet 64 init_weights=0 aux_logits=0",
    "SqueezeNet": "torchvision:squeezenet1_1 64",
    "RegNet": "timm:regnetx_002 64; timm:regnety_002 64",
    "EfficientNet v1": "timm:efficientnet_b0 64",
    "EfficientNet v2": "timm:tf_efficientnetv2_b0 64",
    "EfficientNet Lite": "timm:efficientnet_lite0 64",
    "MobileNet v1": "timm:mobilenetv1_100 64",
    "MobileNet v2": "timm:mobilenetv2_050 64; torchvision:mobilenet_v2 64",
    "MobileNet v3": "timm:mobilenetv3_small_050 64; timm:mobilenetv3_small_050 64 pt2",
    "MobileNet v4": "timm:mobilenetv4_conv_small_050 64",
    "MNASNet": "timm:mnasnet_small 64; torchvision:mnasnet0_5 64",
    "GhostNet": "timm:ghostnet_050 64",
    "ShuffleNet": "torchvision:shufflenet_v2_x0_5 64",
    "RepVGG": "timm:repvgg_a0 64",
    "PP-LCNet": "timm:lcnet_050 64",
    "VoVNet": "timm:ese_vovnet19b_slim 64",
    "NFNet": "timm:nf_regnet_b0 64",
    "ConvNeXt v1": "timm:convnext_atto 64",
    "ConvNeXt v2": "timm:convnextv2_atto 64",
    "EdgeNeXt": "timm:edgenext_xx_small 64",
    "EfficientViT": "timm:efficientvit_b0 64",
    "PoolFormer": "timm:poolformer_s12 64",
    "ViT": "timm:vit_tiny_patch16_224 64 img_size=64",
    "DeiT": "timm:deit_tiny_patch16_224 64 img_size=64 pt2",
    "Swin": "timm:swin_tiny_patch4_window7_224 56 img_size=56; torchvision:swin_t 64",
    "MobileViT": "timm:mobilevit_xxs 64; timm:mobilevitv2_050 64",
    "EfficientFormer": "timm:efficientformer_l1 224; timm:efficientformerv2_s0 224",
    "LeViT": "timm:levit_128s 224",
    "MLP-Mixer": "timm:mixer_s32_224 64 img_size=64",
    "ResMLP and gMLP": "timm:resmlp_12_224 64 img_size=64; timm:gmlp_ti16_224 64 img_size=64",
}


class Architecture(NamedTuple):
    """One network to look at.

    Attributes:
        family: heading of the table.
        library: timm, torchvision or transformers.
        name: the library's own.
        side: of the square image, in pixels.
        options: of the library's constructor.
        saved: whether it is written to a ``.pt2`` file and read from there.
    """

    family: str
    library: str
    name: str
    side: int
    options: dict[str, int]
    saved: bool

    @property
    def spec(self) -> str:
        """``library:name``, unique in the table."""
        return f"{self.library}:{self.name}" + (" (.pt2)" if self.saved else "")


def architectures() -> Iterator[Architecture]:
    """All of them, in the table's order."""
    for family, lines in FAMILIES.items():
        for line in lines.split(";"):
            spec, side, *options = line.split()
            library, _, name = spec.partition(":")
            pairs = (option.split("=") for option in options if option != _SAVED)
            given = {key: int(value) for key, value in pairs}
            yield Architecture(family, library, name, int(side), given, _SAVED in options)


def build(architecture: Architecture) -> nn.Module:
    """Make the network with fresh weights and ten classes.

    Raises:
        ImportError: its library is not installed.
    """
    return _LIBRARIES[architecture.library](architecture)


def _timm(architecture: Architecture) -> nn.Module:
    timm = import_vision("timm")
    net: nn.Module = timm.create_model(
        architecture.name, pretrained=False, num_classes=CLASSES, **architecture.options
    )
    return net


def _torchvision(architecture: Architecture) -> nn.Module:
    models = import_vision("torchvision.models")
    net: nn.Module = models.get_model(
        architecture.name, weights=None, num_classes=CLASSES, **architecture.options
    )
    return net


_LIBRARIES: dict[str, Callable[[Architecture], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}
