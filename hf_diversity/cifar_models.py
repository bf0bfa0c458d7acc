"""The CIFAR forms of ResNet-20, ResNet-50, ResNeXt-29 and DenseNet-BC, of timm's classes; importing registers them.

For images of 32 x 32 pixels the stem is one 3 x 3 convolution without stride, and nothing is pooled before the first
stage. timm has the same networks for ImageNet alone.

    import timm, hf_diversity.cifar_models
    timm.create_model("cifar_resnext29_8x16d", num_classes=100)
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn


class CifarResNet(ResNet):
    """timm's ResNet with the stem of CIFAR networks, and three stages if `layers` and `channels` name three.

    Args:
        *args: those of timm's ResNet.
        **kwargs: those of timm's ResNet.
    """

    conv1: Any
    maxpool: Any

    def __init__(self, *args: Any, **kwargs: Any):
        """See the class."""
        super().__init__(*args, **kwargs)
        self.conv1 = _stem(self.conv1)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's ResNet does
        self.maxpool = nn.Identity()
        if not hasattr(self, "layer4"):
            self.layer4 = nn.Sequential()  # timm's forward pass runs four stages


class CifarDenseNet(DenseNet):
    """timm's DenseNet-BC with the stem of CIFAR networks: a convolution to 2k channels, not normalised.

    Args:
        *args: those of timm's DenseNet.
        **kwargs: those of timm's DenseNet.
    """

    features: Any

    def __init__(self, *args: Any, **kwargs: Any):
        """See the class."""
        super().__init__(*args, **kwargs)
        self.features.conv0 = _stem(self.features.conv0)
        nn.init.kaiming_normal_(self.features.conv0.weight)  # as timm's DenseNet does
        self.features.norm0 = nn.Identity()
        self.features.pool0 = nn.Identity()


def _stem(convolution: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(convolution.in_channels, convolution.out_channels, 3, padding=1, bias=False)


def untrained_cfg(side: int, first_conv: str, classifier: str, **more: Any) -> dict[str, Any]:
    """What timm keeps of an architecture without published weights.

    Args:
        side: of its images, in pixels.
        first_conv: name of the first convolution; "" if there is none.
        classifier: name of the output layer.
        **more: further entries.
    """
    return {
        "num_classes": 10,
        "input_size": (3, side, side),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "first_conv": first_conv,
        "classifier": classifier,
        **more,
    }


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet20.untrained": untrained_cfg(32, "conv1", "fc"),
        "cifar_resnet50.untrained": untrained_cfg(32, "conv1", "fc"),
        "cifar_resnext29_8x16d.untrained": untrained_cfg(32, "conv1", "fc"),
        "cifar_densenet_bc_100_12.untrained": untrained_cfg(32, "features.conv0", "classifier"),
    }
)
ARCHITECTURES = tuple(default_cfgs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 (3 stages of 3 basic blocks; 16, 32, 64 channels), but with timm's stem of 64 channels, not 16."""
    arguments = {"block": BasicBlock, "layers": (3, 3, 3), "channels": (16, 32, 64), **kwargs}
    model: CifarResNet = build_model_with_cfg(CifarResNet, "cifar_resnet20", pretrained, **arguments)
    return model


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-50 (3, 4, 6, 3 bottlenecks) behind a CIFAR stem."""
    arguments = {"block": Bottleneck, "layers": (3, 4, 6, 3), **kwargs}
    model: CifarResNet = build_model_with_cfg(CifarResNet, "cifar_resnet50", pretrained, **arguments)
    return model


@register_model
def cifar_resnext29_8x16d(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNeXt-29 (3 stages of 3 bottlenecks), cardinality 8, 16 channels a group; `base_width=64` makes it 8x64d."""
    arguments: dict[str, Any] = {"block": Bottleneck, "layers": (3, 3, 3), "channels": (64, 128, 256)}
    arguments |= {"cardinality": 8, "base_width": 16, **kwargs}
    model: CifarResNet = build_model_with_cfg(CifarResNet, "cifar_resnext29_8x16d", pretrained, **arguments)
    return model


@register_model
def cifar_densenet_bc_100_12(pretrained: bool = False, **kwargs: Any) -> CifarDenseNet:
    """DenseNet-BC with 100 layers (3 blocks of 16) and growth rate k = 12, compression 0.5."""
    arguments = {"growth_rate": 12, "block_config": (16, 16, 16), **kwargs}
    model: CifarDenseNet = build_model_with_cfg(CifarDenseNet, "cifar_densenet_bc_100_12", pretrained, **arguments)
    return model
