"""PyTorch's side of `cargo xtask peers`: pictures per second of training steps on a batch in memory.

Arguments: architecture, picture size, batch, threads, steps. Reads a mode per line (eager, channels_last, compile; with
`+bf16` under bfloat16 autocast) and answers each with a figure: forward + cross-entropy + backward + SGD with Nesterov
momentum, float32, 10 classes. `memory MODE`, which only a fresh process can answer well, gives the peak of resident bytes
while steps run, less what was resident before the network; nan where the system does not tell.
Needs torch and torchvision.
"""
import sys
import time

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


class Side:
    """One network in one mode, with its optimizer and its batch."""

    def __init__(self, arch, size, batch, mode):
        mode, _, self.autocasts = mode.partition("+")
        torch.manual_seed(0)
        network = network_of(arch, size)
        self.images = torch.rand(batch, 3, size, size)
        self.labels = torch.randint(0, 10, (batch,))
        if mode != "eager":
            network = network.to(memory_format=torch.channels_last)
            self.images = self.images.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.network = torch.compile(network) if mode == "compile" else network
        self.network.train()

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(self.autocasts)):
            loss = torch.nn.functional.cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        self.optimizer.step()


def warm(arch, size, batch, mode):
    side = Side(arch, size, batch, mode)
    for _ in range(3):
        side.step()
    return side


def resident(name):
    """Bytes that /proc/self/status gives: VmRSS, what is held now, or VmHWM, the most that was held."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def peak_memory(arch, size, batch, mode, steps):
    """The compiler is loaded before, and its work over, so that neither counts as the network's memory."""
    if "compile" in mode:
        torch.compile(lambda x: (x * x).sum())(torch.ones(2, requires_grad=True)).backward()
    try:
        before = resident("VmRSS")
        side = warm(arch, size, batch, mode)
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        for _ in range(steps):
            side.step()
        return resident("VmHWM") - before
    except OSError:
        return float("nan")


def main():
    arch, size, batch, threads, steps = sys.argv[1], *map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    sides = {}
    for line in sys.stdin:
        *memory, mode = line.split()
        if memory:
            print(peak_memory(arch, size, batch, mode, steps), flush=True)
            continue
        if mode not in sides:
            sides[mode] = warm(arch, size, batch, mode)
        start = time.perf_counter()
        for _ in range(steps):
            sides[mode].step()
        print(batch * steps / (time.perf_counter() - start), flush=True)


main()
