"""The networks, and what they cost on paper: parameters and floating-point operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.contract import Model


def build(model: Model, channels: int, classes: int, seed: int) -> nn.Module:
    """Return *model* for images (N, *channels*, 32, 32) and *classes* logits, on the CPU.

    The weights depend on *seed* alone, so that all ranks and all devices start alike.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model is Model.RESNET18:
            return _resnet18_cifar(channels, classes)
        return SmallResNet(channels, classes)


def _resnet18_cifar(channels: int, classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with the CIFAR stem: 3x3 stride 1, no max-pool.

    As in He et al. (arXiv 1512.03385), section 4.2, and common CIFAR practice: the ImageNet stem
    would throw away 15 of 16 pixels of a 32x32 image before the first block.
    """
    # torchvision costs about a second to import: only the model that needs it pays.
    from torchvision.models import resnet18  # type: ignore[import-untyped]

    network: nn.Module = resnet18(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


class SmallResNet(nn.Module):
    """A residual network that a CPU core trains on the digits in seconds; 78,000 parameters.

    Three stages of one basic block with 16, 32 and 64 channels on 16x16, 8x8 and 4x4 pixels: a
    stem of stride 2 takes the resolution down early, where the cost is. Group normalisation in
    place of batch normalisation: the result of a sample does not depend on the batch around it, so
    one rank and two ranks compute the same function and differ by rounding alone.
    """

    WIDTHS = (16, 32, 64)

    def __init__(self, channels: int, classes: int) -> None:
        """Build for images of *channels* channels and *classes* logits."""
        super().__init__()
        width = self.WIDTHS[0]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
            _norm(width),
            nn.ReLU(inplace=True),
        ]
        for number, wider in enumerate(self.WIDTHS):
            layers.append(BasicBlock(width, wider, stride=2 if number else 1))
            width = wider
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for images (N, channels, H, W)."""
        features: Tensor = self.features(images)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., figure 2), group-normalised."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        """Map *narrow* to *wide* channels, the pixels of each side divided by *stride*."""
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.norm2 = _norm(wide)
        same = stride == 1 and narrow == wide
        self.shortcut = nn.Identity() if same else nn.Conv2d(narrow, wide, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output, (N, wide, H / stride, W / stride)."""
        inner = functional.relu(self.norm1(self.conv1(images)), inplace=True)
        inner = self.norm2(self.conv2(inner))
        return functional.relu(inner + self.shortcut(images), inplace=True)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def forward_macs(network: nn.Module, channels: int, size: int = 32) -> list[int]:
    """Return the multiply-accumulates of one image for each convolution and linear layer, in order.

    Counted from shapes: outputs x inputs per output. Norms, activations and the shortcut additions
    are left out, as is usual; they are below 1 % here.
    """
    macs: list[int] = []

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)  # noqa: S101  hooks are set on layers with weights only
        macs.append(output[0].numel() * weight[0].numel())

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = network.training
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, channels, size, size))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return macs


def training_flops(network: nn.Module, channels: int) -> int:
    """Return the floating-point operations of training on one image.

    2 per multiply-accumulate; three passes (forward, gradient of the weights, gradient of the
    inputs), less the input gradient of the first layer, which nothing needs.
    """
    macs = forward_macs(network, channels)
    return 2 * (3 * sum(macs) - macs[0])
