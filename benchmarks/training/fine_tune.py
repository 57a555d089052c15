"""Does `train --from` beat training from scratch on 100 photographs a class, and is it exact?

    python -m benchmarks.training.fine_tune --data cats_dogs --runs /tmp/fine --out RESULT.json

First task: 1,000 photographs of cats and dogs, and 400 drawn images of four other classes. Second task: cats and dogs
again, with 100 other photographs a class for training and 100 others to choose the epoch. Every arm is then judged by
the 600 photographs of --data's val/, which no run has seen; differences are paired by photograph. Each command runs in
its own process, as a user types it. Runs that exist are not repeated. Unknown options go to the first task's `train`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.model.weights import Weights, load_weights
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.train.data.scan import DecodedImages, find_images
from alexnet_deploy.train.loop.evaluation import evaluate
from benchmarks.record import record

LINE = [sys.executable, "-c", "from alexnet_deploy.cli import main; main()", "train"]
FROZEN = "fine-tuned, conv1..conv5 frozen"
KILLED = "killed-and-resumed"


def first_words(arch: str) -> tuple[str, ...]:
    return ("first", "--arch", arch, "--recipe", "two-class", "--epochs", "40")


def arms(arch: str) -> dict[str, tuple[str, ...]]:
    """Return the second task's command lines, in order."""
    scratch = ("second", "--arch", arch, "--epochs", "30", "--batch-size", "16", "--recipe")
    return {
        "scratch": (*scratch, "folder"),
        "scratch, two-class": (*scratch, "two-class"),
        "fine-tuned, one rate": ("second", "--from", "first-task", "--set", "pretrained_rate=1.0"),
        "fine-tuned, a tenth": ("second", "--from", "first-task", "--set", "pretrained_rate=0.1"),
        FROZEN: ("second", "--from", "first-task", "--freeze", "conv1..conv5"),
    }


def copy(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)


def lay_out(data: Path, folder: Path) -> None:
    """Write the folders of both tasks; no photograph is in two of their sets."""
    for name in ("cats", "dogs"):
        files = sorted((data / "train" / name).iterdir(), key=lambda path: int(path.name.split(".")[1]))
        even, odd = files[::2], files[1::2]
        copy(even, folder / "first/train" / name)
        copy(odd[200:250], folder / "first/val" / name)
        copy(odd[:100], folder / "second/train" / name)
        copy(odd[100:200], folder / "second/val" / name)
    draw_folder(folder / "drawn", num_train=100, num_validation=20)
    for side in ("train", "val"):
        shutil.copytree(folder / "drawn" / side, folder / "first" / side, dirs_exist_ok=True)


def train(folder: Path, out: str, words: tuple[str, ...]) -> float:
    """Train unless the run exists; return the seconds that it took."""
    started = time.perf_counter()
    if not (folder / out / "weights.safetensors").exists():
        subprocess.run([*LINE, *words, "--out", out], cwd=folder, check=True)
    return time.perf_counter() - started


def kill_and_resume(folder: Path, words: tuple[str, ...]) -> int:
    """Train, kill the process twice with SIGKILL after a checkpoint, and resume; return how many kills hit it."""
    out, num_kills = folder / KILLED, 0
    for options in ((*words, "--out", KILLED), ("--resume", "--out", KILLED)):
        with subprocess.Popen([*LINE, *options], cwd=folder) as process:
            before = checkpoint_time(out)
            while process.poll() is None and checkpoint_time(out) == before:
                time.sleep(0.05)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                num_kills += 1
    subprocess.run([*LINE, "--resume", "--out", KILLED], cwd=folder, check=True)
    return num_kills


def checkpoint_time(run: Path) -> int:
    path = run / "checkpoint.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0


def hits(weights: Weights, data: Path) -> dict[str, np.ndarray]:
    """Return which photographs the weights classify correctly, by the centre view and by ten: bool (600,)."""
    source = find_images(data)
    images = DecodedImages(source.validation, weights.preprocessing.image_policy)
    found = evaluate(weights, images, np.arange(len(images)))
    answers = {"center": found.center, "ten": found.ten}
    return {name: answer.predictions[:, 0] == found.truths for name, answer in answers.items()}


def paired(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the mean difference of two arms, in points, with its 95 % interval over photographs."""
    differences = 100 * (one.astype(float) - other.astype(float))
    half = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    middle = float(differences.mean())
    return {"points": middle, "low": middle - half, "high": middle + half}


def same_bits(one: Weights, other: Weights, names: list[str]) -> bool:
    return all(one.tensors[name].tobytes() == other.tensors[name].tobytes() for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/ of cats/ and dogs/")
    parser.add_argument("--runs", type=Path, required=True, help="directory in which the commands run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", default="tiny", help="architecture of both tasks")
    parser.add_argument("--arms", type=int, nargs="+", help="numbers of the arms to run, from 0, the first of them 0")
    parser.add_argument("--commit", default="", help="commit of the measured code")
    options, others = parser.parse_known_args()
    first = (*first_words(options.arch), *others)
    chosen = list(arms(options.arch).items())
    if options.arms is not None:
        chosen = [chosen[number] for number in options.arms]
    folder, data = options.runs.resolve(), options.data.resolve()
    if not (folder / "second").exists():
        lay_out(data, folder)
    train(folder, "first-task", first)
    started_from = load_weights(folder / "first-task/weights.safetensors").weights
    trained: dict[str, Weights] = {}
    right, rows = {}, []
    for arm, words in chosen:
        out = arm.replace(", ", "-").replace(" ", "-")
        seconds = train(folder, out, words)
        weights = trained[arm] = load_weights(folder / out / "weights.safetensors").weights
        right[arm] = hits(weights, data)
        assert weights.training is not None
        rows.append(
            {
                "arm": arm,
                "command": " ".join(("train", *words)),
                "seconds": seconds,
                "best_epoch": weights.training.best_epoch,
                "top1": {name: 100 * float(found.mean()) for name, found in right[arm].items()},
                "against_scratch": {name: paired(found, right["scratch"][name]) for name, found in right[arm].items()},
            }
        )
    assert started_from.training is not None
    result = {
        "machine": processor(),
        "tools": tool_versions("torch"),
        "commit": options.commit,
        "first_task": {
            "command": " ".join(("train", *first)),
            "num_train": started_from.training.num_train,
            "best_validation_top1": started_from.training.epochs[started_from.training.best_epoch - 1].validation_top1,
        },
        "num_test": 600,
        "rows": rows,
    }
    if frozen := trained.get(FROZEN):
        num_kills = kill_and_resume(folder, arms(options.arch)[FROZEN])
        resumed = load_weights(folder / KILLED / "weights.safetensors").weights
        convolutions = [name for name in started_from.tensors if name.startswith("conv")]
        result |= {
            "frozen_tensors_equal_in_every_bit": same_bits(started_from, frozen, convolutions),
            "kills": num_kills,
            "resumed_equal_in_every_bit": same_bits(frozen, resumed, list(frozen.tensors)),
        }
    record(options.out, result)


if __name__ == "__main__":
    main()
