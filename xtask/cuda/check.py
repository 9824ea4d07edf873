"""What check.sh runs: the parts, one after the other. Each writes PART.txt and PART.json, goes on after a failure and says so.

Our programs get the CUDA libraries' folders as LD_LIBRARY_PATH; PyTorch finds its own.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Of a part; less than the ten minutes that a command often has.
PART_SECONDS = 530
# Test programs with their arguments and the most seconds of each.
SUITES = [
    ("kernels", "tests-engine", ["cuda::"], 150),
    ("a step on the GPU against the processor's", "tests-cuda", ["--test-threads=1"], 150),
    ("candle's tensors on the GPU", "tests-cuda_tensors", ["--test-threads=1"], 60),
    ("gradients against PyTorch's", "tests-gradients", [], 60),
    ("networks", "tests-network", [], 60),
    ("logits against torchvision's", "tests-torchvision", [], 60),
    ("every network of the zoo", "tests-zoo", [], 200),
]
# Too slow for the emulator, or nothing there.
TINY_SKIPS = {"tests-zoo", "tests-torchvision", "tests-cuda_tensors"}
BANDWIDTH = ["bandwidth", "--ignored", "--nocapture", "--test-threads=1"]
VERSIONS = """import torch
print("torch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
"""
PUBLISHED = "94.93 % on CIFAR-10 with 250 labels after 2^20 steps (Sohn et al. 2020)"


class Part:
    """The files of a part and its clock."""

    def __init__(self, name, options):
        self.name, self.options, self.began = name, options, time.monotonic()
        self.text = open(options.out / f"{name}.txt", "w")
        self.failures, self.record = [], {}

    def say(self, line):
        print(line, flush=True)
        self.text.write(line + "\n")
        self.text.flush()

    def fail(self, line):
        self.failures.append(line)
        self.say(f"! {line}")

    def save(self, record):
        """Adds to what is known, and writes it all."""
        self.record |= record
        path = self.options.out / f"{self.name}.json"
        whole = {"part": self.name, "tiny": self.options.tiny, **self.record, "failures": self.failures}
        path.write_text(json.dumps(whole, indent=1) + "\n")

    def left(self):
        return PART_SECONDS - (time.monotonic() - self.began)

    def run(self, command, seconds, environment=None):
        """Output of one of our programs, and whether it ended well in its time. Before it is killed it is asked to stop."""
        seconds = max(min(seconds, self.left()), 1)
        environment = dict(os.environ, **(environment or {}))
        environment["LD_LIBRARY_PATH"] = os.environ["DISTILL_CUDA_LIBRARIES"]
        command = [str(word) for word in command]
        self.say(f"$ {' '.join(command)}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            process = subprocess.Popen(command, text=True, errors="replace", env=environment, **pipes)
        except OSError as error:
            self.fail(str(error))
            return "", False
        try:
            output, over = process.communicate(timeout=seconds)[0], False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                output = process.communicate(timeout=10)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                output = process.communicate()[0]
            over = True
        ended = f"not over after {seconds:.0f} s" if over else f"exit code {process.returncode}"
        if over or process.returncode:
            self.fail(f"{command[0]}: {ended}")
        return output, not over and process.returncode == 0


def machine(part):
    """What was built and what this machine is, at the head of each part."""
    part.say(f"built from {(HERE / 'built.txt').read_text().strip()}")
    if part.options.device != "cpu" and not part.options.emulator:
        query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"
        for command in (["nvidia-smi", f"--query-gpu={query}", "--format=csv"], ["nvidia-smi"]):
            try:
                part.say(subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip())
            except (OSError, subprocess.TimeoutExpired) as error:
                part.fail(f"nvidia-smi: {error}")
        found = subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True)
        part.say((found.stdout or found.stderr).strip())
    output, _ = part.run([part.options.programs / "distill", "doctor"], 60)
    part.say(output.strip())


def suite(part):
    """Every test program; counts and the worst errors that they print."""
    record, worst = [], {}
    for title, program, arguments, seconds in SUITES:
        if part.options.tiny and program in TINY_SKIPS:
            continue
        began = time.monotonic()
        command = [part.options.programs / program, *arguments, "--nocapture"]
        output, fine = part.run(command, seconds, {"DISTILL_TEST_DEVICE": "cuda", "RUST_BACKTRACE": "0"})
        counts = [int(number) for number in re.findall(r"(\d+) (?:passed|failed)", output)[:2]]
        counts = counts or [len(re.findall(r"^(?:test .* \.\.\. )?ok$", output, re.M)), 0]  # it did not come to an end
        names = re.findall(r"^test (\S+) \.\.\. FAILED|^    (\S+)$", output, re.M)
        failed = sorted({name for pair in names for name in pair if name})
        spent = time.monotonic() - began
        part.say(f"{title}: {counts[0]} passed, {counts[1]} failed, {spent:.0f} s")
        for name, error in re.findall(r"worst (.+) (\S+)$", output, re.M):
            keep_worst(worst, name, error)
        apart = [line.strip() for line in output.splitlines() if line.endswith(" apart")]
        part.say("\n".join(f"  {line}" for line in apart) or "  no distances said")
        if not fine:
            part.say(panics(output))
        numbers = {"passed": counts[0], "failed": counts[1], "seconds": spent}
        record.append({"suite": title, **numbers, "failed_tests": failed, "said": apart})
        part.save({"suites": record, "worst": worst})
    if not part.options.tiny:
        output, _ = part.run([part.options.programs / "tests-engine", *BANDWIDTH], 60)
        rates = [line for line in output.splitlines() if line.endswith(("GB/s", "channels"))]
        part.say("\n".join(rates))
        part.save({"bandwidth": rates})
    part.say("worst errors:")
    for name, error in sorted(worst.items()):
        part.say(f"  {name}: {error:.2e}")
    part.save({"suites": record, "worst": worst})


def keep_worst(worst, name, error):
    try:
        worst[name] = max(float(error), worst.get(name, 0.0))
    except ValueError:
        pass  # the word in another sentence


def panics(output):
    """What failing tests said, and the output's end."""
    lines = output.splitlines()
    said = [index for index, line in enumerate(lines) if "panicked at" in line][:30]
    shown = [line for index in said for line in lines[index : index + 4]]
    return "\n".join(["--- panics", *shown, "--- end of the output", *lines[-15:]])[:20000]


def speed(part):
    """Ours and PyTorch's by turns."""
    import turns

    options = part.options
    options.seconds, options.script = part.left() - 30, HERE / "cuda_training.py"
    options.compile_seconds = 60 if options.tiny else 180
    options.rounds = 2 if options.tiny else 5
    options.torch_device = "cpu" if options.emulator or options.device == "cpu" else "cuda"
    try:
        turns.run(options, part.say, part.save)
    except turns.Failed as failed:
        part.fail(str(failed))
    for case in turns.TINY if options.tiny else turns.CASES:
        if case.step == "supervised" and part.left() > 20:
            profile(part, case)


def profile(part, case):
    """Where a step's time goes, by kinds of nodes; each is waited for, so the sum is more than a step takes."""
    command = case.ours(part.options.programs, part.options.device, part.options.precision)
    command = [word for word in command if word != "--turns"] + ["--profile", "--iterations", "5"]
    part.say(part.run(command, 60)[0].strip())


def training(part, arguments, run):
    """A training by our program, as long as the part has time; what it printed."""
    options = part.options
    shared = ["--device", options.device, "--out", run]
    shared += ["--precision", options.precision] if options.device != "cpu" else []
    # Set-up and reports come on top of the budget.
    seconds = int(part.left() - 75)
    if options.tiny:
        shared += ["--data", "synth:200/40", "--steps", "2"]
    else:
        shared += ["--data", options.data, "--budget", f"{seconds}s"]
    output, fine = part.run([options.programs / "distill", *arguments, *shared], seconds + 60)
    part.say(output.strip()[-6000:])
    return fine


def events(path):
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return []


def curve(part, run):
    """Steps and accuracies that a run has logged, and its pace."""
    logged = events(run / "metrics.jsonl")
    of_kind = lambda kind: [event for event in logged if event["event"] == kind]
    points = [{key: event[key] for key in ("step", "split", "accuracy", "loss")} for event in of_kind("evaluated")]
    for point in points:
        part.say(f"  step {point['step']:>8}  {point['split']:<5} {100 * point['accuracy']:.2f} %")
    steps = of_kind("step")
    pace = [event["pictures_per_second"] for event in steps]
    waiting = [event["wait_share"] for event in steps]
    some = steps[:: max(len(steps) // 100, 1)]
    losses = [{key: event.get(key) for key in ("step", "loss", "parts")} for event in some]
    middle = lambda values: values[len(values) // 2] if values else None
    return {"points": points, "losses": losses, "pictures_per_second": middle(pace), "wait_share": middle(waiting)}


def summary(path):
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if key not in ("confusion", "classes")}


def fixmatch(part):
    """FixMatch on 250 labels for as many steps as there is time for."""
    run = part.options.programs / f"run-fixmatch-{os.getpid()}"
    labels = "20" if part.options.tiny else "250"
    arch = "wrn-10-1" if part.options.tiny else "wrn-28-2"
    arguments = ["train", "--arch", arch, "--method", "fixmatch", "--labels", labels]
    arguments += ["--batch-size", "2", "--set", "mu=2"] if part.options.tiny else []
    training(part, arguments, run)
    record = {"curve": curve(part, run), "summary": summary(run / "summary.json"), "published": PUBLISHED}
    done = record["summary"]
    if done.get("test_accuracy") is not None:
        part.say(f"test accuracy {100 * done['test_accuracy']:.2f} % after {done['steps']} steps; published: {PUBLISHED}")
    else:
        part.fail("the run has no summary")
    part.save(record)


def job(part):
    """Teacher and student at 10 % labels, the whole job in one command."""
    run = part.options.programs / f"run-job-{os.getpid()}"
    teacher, student = ("small-cnn-3", "small-cnn-3") if part.options.tiny else ("efficientnet-b0", "mobilenet-v3-large")
    arguments = ["--teacher", teacher, "--student", student, "--labels", "10%"]
    arguments += ["--batch-size", "8", "--no-baseline"] if part.options.tiny else []
    training(part, arguments, run)
    report = summary(run / "summary.json")
    for name in ("teacher", "student"):
        side = report.get(name, {})
        if side.get("test_accuracy") is None:
            part.fail(f"the {name} has no summary")
        else:
            accuracy = 100 * side["test_accuracy"]
            part.say(f"{name} {side['arch']}: test {accuracy:.2f} %, {side['steps']} steps, {side['seconds']:.0f} s")
    part.save({"report": report})


PARTS = {"suite": suite, "speed": speed, "fixmatch": fixmatch, "job": job}


def parsed():
    parser = argparse.ArgumentParser(prog="check.sh")
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--data", type=pathlib.Path, help="folder with CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("check"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--tiny", action="store_true", help="small sizes and few steps, to try the parts themselves")
    parser.add_argument("--emulator", type=pathlib.Path, help="folder of the emulated libraries, in place of a GPU")
    parser.add_argument("--programs", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    needs_data = {"fixmatch", "job"} & set(options.parts)
    if needs_data and not options.tiny and not (options.data and (options.data / "train.parquet").is_file()):
        parser.error(f"{', '.join(sorted(needs_data))}: --data has to name a folder with train.parquet, found {options.data}")
    return options


def main():
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.parts:
        part = Part(name, options)
        part.say(f"=== {name}")
        try:
            machine(part)
            PARTS[name](part)
        except Exception as error:  # the other parts are worth their time
            part.fail(f"{type(error).__name__}: {error}")
        part.save({"seconds": time.monotonic() - part.began})
        part.say(f"=== {name}: {len(part.failures)} failures, {time.monotonic() - part.began:.0f} s")
        failed += [name] if part.failures else []
    sys.exit(1 if failed else 0)


main()
