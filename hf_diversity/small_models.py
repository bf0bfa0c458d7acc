"""Two networks that train in seconds on a CPU, for studies of many runs; importing registers them in timm.

import timm, hf_diversity.small_models
timm.create_model("small_cnn", num_classes=10, in_chans=1)
timm.create_model("small_mlp", num_classes=10, in_chans=1, img_size=28)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from .cifar_models import untrained_cfg


class SmallCNN(nn.Module):
    """Blocks of a 3 x 3 convolution with stride 2, batch normalisation and ReLU; then average pooling.

    A stride costs a quarter of what max pooling does here. The last hidden layer, which the output head receives, has
    `channels[-1]` units.

    Args:
        num_classes: outputs.
        in_chans: channels of an image.
        global_pool: kind of the last pooling, as timm names it.
        drop_rate: dropout of the pooled units.
        channels: of each block.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        channels: Sequence[int] = (32, 64, 128),
    ):
        """See the class."""
        super().__init__()
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = channels[-1]
        widths = (in_chans, *channels)
        self.blocks = nn.Sequential()
        for before, after in zip(widths, widths[1:], strict=False):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            self.blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
        self.head = ClassifierHead(channels[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate)

    def get_classifier(self) -> nn.Module:
        """Return the output layer."""
        output: nn.Module = self.head.fc
        return output

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network another output layer."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps, (N, channels[-1], H / 8, W / 8) with three blocks, rounded up."""
        features: Tensor = self.blocks(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, (N, num_classes), of feature maps; or the pooled units."""
        outputs: Tensor = self.head(x, pre_logits=pre_logits)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, num_classes), of images (N, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))


class SmallMLP(nn.Module):
    """Linear layers with ReLU, each followed by dropout.

    Args:
        num_classes: outputs.
        in_chans: channels of an image.
        img_size: side of an image, or (height, width).
        drop_rate: dropout of the units of every hidden layer.
        widths: units of each hidden layer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 28,
        drop_rate: float = 0.0,
        widths: Sequence[int] = (256, 128),
    ):
        """See the class."""
        super().__init__()
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = widths[-1]
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        sizes = (in_chans * height * width, *widths)
        self.layers = nn.Sequential(nn.Flatten(1))
        for before, after in zip(sizes, sizes[1:], strict=False):
            self.layers.append(nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(drop_rate)))
        self.fc = self._output(num_classes)

    def _output(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the output layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network another output layer; there is no pooling to choose."""
        self.num_classes = num_classes
        self.fc = self._output(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Units of the last hidden layer, (N, widths[-1])."""
        units: Tensor = self.layers(x)
        return units

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, (N, num_classes), of those units; or the units themselves."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, num_classes), of images (N, in_chans, height, width)."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "small_cnn.untrained": untrained_cfg(28, "blocks.0.0", "head.fc"),
        "small_mlp.untrained": untrained_cfg(28, "", "fc", fixed_input_size=True, pool_size=None),
    }
)
ARCHITECTURES = tuple(default_cfgs)


@register_model
def small_cnn(pretrained: bool = False, **kwargs: Any) -> SmallCNN:
    """Three blocks of 32, 64 and 128 channels: 128 units in the last hidden layer, 94,186 weights for grey images."""
    model: SmallCNN = build_model_with_cfg(SmallCNN, "small_cnn", pretrained, **kwargs)
    return model


@register_model
def small_mlp(pretrained: bool = False, **kwargs: Any) -> SmallMLP:
    """Hidden layers of 256 and 128 units: 235,146 weights for grey images of 28 x 28 pixels."""
    model: SmallMLP = build_model_with_cfg(SmallMLP, "small_mlp", pretrained, **kwargs)
    return model
