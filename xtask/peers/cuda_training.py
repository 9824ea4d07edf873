"""PyTorch's side of the timing on a GPU: training steps of a network on a batch in memory, as fast as PyTorch does them.

    cuda_training.py STEP ARCH SIZE BATCH FLAVOR DEVICE [MU]      one process is one network in one flavor
    cuda_training.py limits DEVICE                                what this device does at most, as a line of JSON

STEP is supervised (cross-entropy of BATCH pictures) or fixmatch (BATCH labeled pictures and MU times as many unlabeled ones
in two views, one joint forward and backward, the moving average of the weights). FLAVOR is eager, compile (torch.compile),
reduce-overhead or max-autotune (its modes, the latter without its own graphs). Always channels_last, bfloat16 autocast, fused
SGD with Nesterov momentum, cudnn.benchmark.

Prints {"ready": ...} once everything is compiled. Then reads lines `WAY STEPS`: plain, or graph for the whole step (optimizer
too) captured as one CUDA graph; each is answered by a line of JSON. The first request for a way lets cuDNN find its
algorithms and captures, untimed, so that a process may compile beside others and is measured alone. The supervised batch lies
on the device, normalized; FixMatch's pictures come as bytes from page-locked memory in every step, as training has them.
Needs torch and torchvision. Also runs on `cpu`, to be tried.
"""
import json
import sys
import time

import torch
from torch.nn import functional

from networks import network_of

MODES = {"compile": "default", "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune-no-cudagraphs"}
CLASSES = 10
# Steps before the first that counts, as many as the other side has.
WARM_UP = 5
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Supervised:
    """A batch that lies on the device."""

    def __init__(self, size, batch, device):
        pictures = torch.randn(batch, 3, size, size, device=device, dtype=torch.bfloat16)
        self.pictures = pictures.to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (batch,), device=device)
        self.average = False

    def load(self):
        pass

    def loss(self, network):
        return functional.cross_entropy(network(self.pictures).float(), self.labels)


class FixMatch:
    """Bytes of labeled, weak and strong views in one buffer, fetched anew for every step."""

    def __init__(self, size, batch, device, mu):
        self.parts = [batch, mu * batch, mu * batch]
        bytes_ = torch.randint(0, 256, (sum(self.parts), size, size, 3), dtype=torch.uint8)
        self.host = bytes_.pin_memory() if device == "cuda" else bytes_
        self.pictures = bytes_.to(device)
        self.labels = torch.randint(0, CLASSES, (batch,), device=device)
        row = lambda values: torch.tensor(values, device=device, dtype=torch.bfloat16).view(1, 3, 1, 1)
        self.mean, self.deviation = row(MEAN), row(DEVIATION)
        self.average = True

    def load(self):
        self.pictures.copy_(self.host, non_blocking=True)

    def loss(self, network):
        # Bytes NHWC seen as NCHW are channels_last already.
        pictures = self.pictures.permute(0, 3, 1, 2).to(torch.bfloat16) / 255
        logits = network((pictures - self.mean) / self.deviation).float()
        labeled, weak, strong = logits.split(self.parts)
        confidence, guesses = weak.detach().softmax(1).max(1)
        unlabeled = functional.cross_entropy(strong, guesses, reduction="none") * (confidence >= 0.95)
        return functional.cross_entropy(labeled, self.labels) + unlabeled.mean()


class Side:
    """A network in one flavor, with its optimizer, its batch and what was captured."""

    def __init__(self, step, arch, size, batch, flavor, device, mu):
        torch.manual_seed(0)
        self.device, self.flavor, self.graph = device, flavor, None
        self.found = False
        self.batch = FixMatch(size, batch, device, mu) if step == "fixmatch" else Supervised(size, batch, device)
        self.network = network_of(arch, size).to(device).to(memory_format=torch.channels_last).train()
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        state = self.parameters + [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        self.followed = [value.detach() for value in state]
        self.average = [value.clone() for value in self.followed] if self.batch.average else None
        self.compile()

    def compile(self):
        autocast = torch.autocast(self.device, torch.bfloat16)

        def loss():
            with autocast:
                return self.batch.loss(self.network)

        mode = MODES.get(self.flavor)
        self.loss = torch.compile(loss, mode=mode) if mode else loss

    def compute(self):
        """All of a step but the way of the pictures to the device."""
        self.loss().backward()
        self.optimizer.step()
        if self.average:
            torch._foreach_lerp_(self.average, self.followed, 0.001)

    def plain(self):
        if self.flavor == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        self.batch.load()
        self.compute()

    def replay(self):
        self.batch.load()
        self.graph.replay()

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def find(self):
        """cuDNN's algorithms are found with nobody else at work; what has captured the others is captured anew."""
        if self.found:
            return
        torch.backends.cudnn.benchmark = True
        if self.flavor == "reduce-overhead":
            torch._dynamo.reset()
            self.compile()
        self.found = True

    def capture(self):
        if self.device != "cuda":
            raise RuntimeError("a step is captured on cuda alone")
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self.plain()
        torch.cuda.current_stream().wait_stream(beside)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        self.graph = graph

    def turn(self, way, steps):
        """Seconds of so many steps, with the device waited for at their end alone."""
        self.find()
        if way == "graph" and self.graph is None:
            self.capture()
        step = self.replay if way == "graph" else self.plain
        for _ in range(WARM_UP):
            step()
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        self.wait()
        return time.perf_counter() - start

    def pictures(self):
        return self.batch.pictures.shape[0]


def answer(side, line):
    way, steps = line.split()
    try:
        seconds = side.turn(way, int(steps))
    except Exception as error:  # whatever a mode cannot do is said, and others are tried
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    rate = side.pictures() * int(steps) / seconds
    peak = torch.cuda.max_memory_allocated() if side.device == "cuda" else None
    return {
        "seconds": seconds,
        "milliseconds": seconds * 1e3 / int(steps),
        "pictures_per_second": rate,
        "memory_bytes": peak,
    }


def limits(device):
    """TFLOP/s of a large product of random bf16 matrices, and TB/s of a large copy, read and written."""
    if device != "cuda":
        return {"device": device}
    median = lambda times: sorted(times)[len(times) // 2]

    def timed(work, repeats=10):
        times = []
        for _ in range(3 + repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return median(times[3:])

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_(0, 256)
    target = torch.empty_like(source)
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "bf16_product_tflops": 2 * 8192**3 / timed(lambda: torch.mm(a, b, out=product)) / 1e12,
        "copy_tb_per_second": 2 * 2**31 / timed(lambda: target.copy_(source)) / 1e12,
    }


def say(value):
    print(json.dumps(value), flush=True)


def main():
    if sys.argv[1] == "limits":
        say(limits(sys.argv[2]))
        return
    step, arch, size, batch, flavor, device, *mu = sys.argv[1:]
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    side = Side(step, arch, int(size), int(batch), flavor, device, int(*mu or [7]))
    for _ in range(2):
        side.plain()
    side.wait()
    say({"ready": f"{arch} {flavor}", "pictures": side.pictures()})
    for line in sys.stdin:
        say(answer(side, line))


main()
