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

from networks import network_of


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
