"""The timing part of check.py: our steps and PyTorch's on one GPU, paired.

All of PyTorch's flavors compile at once, up to a deadline; what is not ready by then is ended and named. Then, one case after
the other and with nothing else at work, every flavor is tried once, plain and captured as a CUDA graph; the fastest of all
takes turns with ours. A ratio is the median of the rounds' ratios, above 1 in our favor. Never decides what is good enough:
it prints the goal beside the ratio.
"""
import json
import os
import queue
import subprocess
import sys
import threading
import time

# Those likeliest to be the fastest first: where time is short, the others are left out and named.
FLAVORS = ("compile", "max-autotune", "eager", "reduce-overhead")
# reduce-overhead has graphs of its own.
WAYS = {"reduce-overhead": ("plain",)}
# Longest wait for one answer.
ANSWER_SECONDS = 60


class Case:
    def __init__(self, step, arch, size, batch, steps, goal, mu=7):
        self.step, self.arch, self.size, self.batch, self.steps, self.goal, self.mu = step, arch, size, batch, steps, goal, mu
        self.name = f"{step}/{arch}/{size}/b{batch}"

    def ours(self, programs, device, precision):
        program = "method_step" if self.step == "fixmatch" else "step"
        command = [os.path.join(programs, program), "--arch", self.arch, "--size", str(self.size), "--batch", str(self.batch)]
        command += ["--device", device, "--iterations", str(self.steps), "--turns"]
        command += ["--precision", precision] if device != "cpu" else []
        return command + (["--method", "fixmatch", "--set", f"mu={self.mu}"] if self.step == "fixmatch" else [])

    def theirs(self, script, flavor, device):
        words = [self.step, self.arch, self.size, self.batch, flavor, device, self.mu]
        return [sys.executable, script, *map(str, words)]


CASES = [
    Case("fixmatch", "wrn-28-2", 32, 64, 20, 1.2),
    Case("supervised", "mobilenet-v3-large", 32, 256, 100, 1.5),
    Case("supervised", "efficientnet-b0", 32, 256, 100, 1.5),
    Case("supervised", "resnet50", 96, 256, 20, 0.95),
]
TINY = [
    Case("fixmatch", "wrn-10-1", 32, 1, 1, 1.2, mu=2),
    Case("supervised", "mobilenet-v3-small", 32, 2, 1, 1.5),
]


class Failed(Exception):
    """What a side could not do."""


class Side:
    """A program that answers lines with lines of JSON; the first says that it is ready."""

    def __init__(self, name, command, environment=None):
        self.name, self.lines, self.ready = name, queue.Queue(), None
        self.log = f"/tmp/distill-check-{os.getpid()}-{name.replace('/', '-').replace(' ', '-')}.log"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": open(self.log, "w")}
        self.process = subprocess.Popen(command, text=True, bufsize=1, env=environment, **pipes)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.lines.put(json.loads(line))
            except ValueError:
                pass  # somebody's warning
        self.lines.put(None)

    def answer(self, seconds):
        try:
            found = self.lines.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            self.end()  # or a late answer would be taken for the next one
            raise Failed("not ready in time" if self.ready is None else f"no answer in {seconds:.0f} s") from None
        if found is None:
            self.lines.put(None)  # for whoever asks again
            with open(self.log) as log:
                last = [line.strip() for line in log if line.strip()][-3:]
            raise Failed(f"ended: {' | '.join(last) or 'without a word'}"[:600])
        if "failed" in found:
            raise Failed(found["failed"])
        return found

    def wait_ready(self, seconds):
        self.ready = self.ready or self.answer(seconds)
        return self.ready

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # the answer says how it ended
        return self.answer(ANSWER_SECONDS)

    def end(self):
        self.process.kill()
        self.process.wait()


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def start_theirs(cases, options):
    environment = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="2", OMP_NUM_THREADS="2")
    sides = {}
    for flavor in FLAVORS if not options.tiny else ("compile", "eager"):
        for case in cases:
            command = case.theirs(options.script, flavor, options.torch_device)
            sides[case.name, flavor] = Side(f"{case.name} {flavor}", command, environment)
    return sides


def wait_compiled(sides, seconds, notes):
    """Those that are ready in time; the others are ended, so that they disturb nobody."""
    deadline, ready = time.monotonic() + seconds, {}
    for key, side in sides.items():
        try:
            side.wait_ready(deadline - time.monotonic())
            ready[key] = side
        except Failed as failed:
            notes.append(f"PyTorch {side.name}: {failed}")
            side.end()
    return ready


def try_ways(case, sides, until, notes):
    """Pictures per second of every flavor in every way, and the side and way of the best."""
    tried, best = {}, None
    for flavor in FLAVORS:
        side = sides.get((case.name, flavor))
        for way in WAYS.get(flavor, ("graph", "plain")) if side else ():
            if best and time.monotonic() > until:
                notes.append(f"PyTorch {side.name} {way}: not tried, for want of time")
                continue
            try:
                rate = side.ask(f"{way} {case.steps}")["pictures_per_second"]
            except Failed as failed:
                notes.append(f"PyTorch {side.name} {way}: {failed}")
                continue
            tried[f"{flavor} {way}"] = rate
            if best is None or rate > best[0]:
                best = (rate, side, way, f"{flavor} {way}")
    return tried, best


def pair(case, ours, best, options):
    """A record of both sides, round by round; who goes first changes."""
    their_turns, our_turns = [], []
    for number in range(options.rounds):
        turns = [
            lambda: our_turns.append(ours.ask("go")),
            lambda: their_turns.append(best[1].ask(f"{best[2]} {case.steps}")["pictures_per_second"]) if best else None,
        ]
        for turn in turns if number % 2 == 0 else turns[::-1]:
            turn()
    rates = [turn["pictures_per_second"] for turn in our_turns]
    record = {
        "ours": median(rates),
        "ours_rounds": rates,
        "milliseconds": median([turn["milliseconds"] for turn in our_turns]),
        "tflops": median([turn["tflops"] for turn in our_turns]),
        "h100_tflops": our_turns[0]["h100_tflops"],
        "precision": our_turns[0]["precision"],
    }
    if best:
        ratios = [ours / theirs for ours, theirs in zip(rates, their_turns)]
        record |= {"theirs": median(their_turns), "theirs_rounds": their_turns, "their_mode": best[3]}
        record |= {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return record


def measure(case, sides, seconds, options, notes):
    tried, best = try_ways(case, sides, time.monotonic() + 0.6 * seconds, notes)
    for side in (side for key, side in sides.items() if key[0] == case.name and (not best or side is not best[1])):
        side.end()
    environment = dict(os.environ, LD_LIBRARY_PATH=os.environ["DISTILL_CUDA_LIBRARIES"])
    ours = Side(f"ours {case.name}", case.ours(options.programs, options.device, options.precision), environment)
    record = {"case": case.name, "goal": case.goal, "their_modes": tried}
    try:
        ours.wait_ready(2 * ANSWER_SECONDS)
        record |= pair(case, ours, best, options)
    except Failed as failed:
        notes.append(f"{case.name}: {failed}")
        record["failed"] = str(failed)
    finally:
        ours.end()
        if best:
            best[1].end()
    return record


def row(record, limits):
    """A line for people."""
    if "ours" not in record:
        return f"{record['case']:<38} not measured; PyTorch's modes: {record['their_modes']}"
    share = f" ({100 * record['tflops'] / record['h100_tflops']:.1f} %)" if record["h100_tflops"] else ""
    measured = limits.get("bf16_product_tflops")
    share += f", {100 * record['tflops'] / measured:.1f} % of the measured product" if measured else ""
    text = f"{record['case']:<38} ours {record['ours']:>10.0f} pictures/s, {record['milliseconds']:.3f} ms a step, "
    text += f"{record['tflops']:.2f} TFLOP/s{share}"
    if "ratio" not in record:
        return f"{text}; no mode of PyTorch ran"
    text += f"; PyTorch {record['theirs']:>10.0f} ({record['their_mode']}); ratio {record['ratio']:.3f}"
    return f"{text} [{record['ratio_min']:.3f}..{record['ratio_max']:.3f}], goal {record['goal']}"


def run(options, say, save):
    """Everything; `say` gets the lines for people, `save` the record as it grows."""
    cases, notes, began = TINY if options.tiny else CASES, [], time.monotonic()
    sides, records, limits = start_theirs(cases, options), [], {}
    try:
        ready = wait_compiled(sides, options.compile_seconds, notes)
        say(f"{len(ready)} of {len(sides)} of PyTorch's flavors ready after {time.monotonic() - began:.0f} s")
        limits = machine(options, notes)
        say(f"measured limits: {json.dumps(limits)}")
        save({"limits": limits, "cases": records, "notes": notes})
        for index, case in enumerate(cases):
            left = options.seconds - (time.monotonic() - began)
            if left < 30:
                notes.append(f"{case.name}: no time left")
                continue
            records.append(measure(case, ready, left / (len(cases) - index), options, notes))
            say(row(records[-1], limits))
            save({"limits": limits, "cases": records, "notes": notes})
    finally:
        for side in sides.values():
            side.end()
    for note in notes:
        say(f"! {note}")
    save({"limits": limits, "cases": records, "notes": notes, "seconds": time.monotonic() - began})
    if not records or any("ratio" not in record for record in records):
        raise Failed("not every case was measured")


def machine(options, notes):
    side = Side("limits", [sys.executable, options.script, "limits", options.torch_device])
    try:
        return side.answer(60)
    except Failed as failed:
        notes.append(f"limits: {failed}")
        return {}
    finally:
        side.end()
