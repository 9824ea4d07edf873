"""The networks that PyTorch trains beside ours, by our names: torchvision's, and those that it does not have."""
import sys

import torch
import torchvision

ARCHS = {
    "mobilenet-v3-large": "mobilenet_v3_large",
    "mobilenet-v3-small": "mobilenet_v3_small",
    "efficientnet-b0": "efficientnet_b0",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
}


def small_cnn_3(size, channels=3, classes=10):
    layers, width = [], channels
    for out in (32, 64, 128):
        layers += [torch.nn.Conv2d(width, out, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        width = out
    side = size // 8
    layers += [torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(128 * side * side, 128), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(128, classes))


class WideBlock(torch.nn.Module):
    """A pre-activation block of a wide ResNet, as FixMatch's authors have it."""

    def __init__(self, width_in, width, stride, activates_shortcut):
        super().__init__()
        self.bn1, self.bn2 = (torch.nn.BatchNorm2d(w, eps=0.001, momentum=0.001) for w in (width_in, width))
        self.conv1 = torch.nn.Conv2d(width_in, width, 3, stride, 1)
        self.conv2 = torch.nn.Conv2d(width, width, 3, 1, 1)
        self.shortcut = torch.nn.Conv2d(width_in, width, 1, stride) if width_in != width else torch.nn.Identity()
        self.activates_shortcut = activates_shortcut

    def forward(self, x):
        y = torch.nn.functional.leaky_relu(self.bn1(x), 0.1)
        shortcut = self.shortcut(y if self.activates_shortcut else x)
        y = self.conv2(torch.nn.functional.leaky_relu(self.bn2(self.conv1(y)), 0.1))
        return y + shortcut


def wide_resnet(depth, factor, classes=10):
    layers, width_in = [torch.nn.Conv2d(3, 16, 3, padding=1)], 16
    for group in range(3):
        width = 16 * factor * 2**group
        for index in range((depth - 4) // 6):
            first = index == 0
            layers.append(WideBlock(width_in, width, 2 if group and first else 1, not group and first))
            width_in = width
    layers += [torch.nn.BatchNorm2d(width_in, eps=0.001, momentum=0.001), torch.nn.LeakyReLU(0.1)]
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width_in, classes)]
    return torch.nn.Sequential(*layers)


def network_of(arch, size):
    if arch == "small-cnn-3":
        return small_cnn_3(size)
    if arch.startswith("wrn-"):
        return wide_resnet(*map(int, arch.split("-")[1:]))
    if arch not in ARCHS:
        sys.exit(f"{arch}: not among {', '.join(ARCHS)}, small-cnn-3, wrn-D-K")
    return getattr(torchvision.models, ARCHS[arch])(num_classes=10)
