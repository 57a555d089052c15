"""python forked.py BUNDLE IMAGE BACKEND CASE: fork in one of the ways that servers do; print the child's output.

The parent waits for its child for a limited time, and prints `hangs` if the child has not ended by then.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from commands import HANGS_AFTER_S

import alexnet_deploy
from alexnet_deploy.engines.engine import open_engine


def say(*words: object) -> None:
    print(*words, flush=True)


def ask(predictor: alexnet_deploy.Predictor, image: str) -> str:
    return next(predictor.predict(image)).top[0].label


def each_call(predictor: alexnet_deploy.Predictor, image: str) -> None:
    images = np.zeros((1, 256, 256, 3), np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "run": lambda: predictor.run(images),
        "classify": lambda: predictor.classify(image),
        "predict": lambda: list(predictor.predict([image] * 3)),
    }
    for name, call in calls.items():
        try:
            call()
            say(name, "answers")
        except alexnet_deploy.BackendError as error:
            say(name, error)
    predictor.close()
    say("closed")


def wait_for(process: int) -> None:
    end = time.monotonic() + HANGS_AFTER_S
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            say(f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}")
            return
        time.sleep(0.02)
    os.kill(process, 9)
    os.waitpid(process, 0)
    say("hangs")


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a fork that exits like a program, with destructors and exit handlers."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            work()
        except alexnet_deploy.BackendError as error:
            say(error)
        sys.exit(0)
    wait_for(process)


def engine_of(predictor: alexnet_deploy.Predictor) -> int:
    predictor.labels[0].encode()
    return id(predictor._engine)


def main(bundle: str, image: str, backend: str, case: str) -> None:
    if case == "fork first":
        in_child(lambda: say(ask(alexnet_deploy.load(bundle, backend), image)))  # type: ignore[arg-type]
        return
    predictor = alexnet_deploy.load(bundle, backend)  # type: ignore[arg-type]
    label = ask(predictor, image)
    if case == "each call":
        in_child(lambda: each_call(predictor, image))
    elif case == "load again":
        in_child(lambda: alexnet_deploy.load(bundle, backend))  # type: ignore[arg-type]
    elif case == "nothing":
        in_child(lambda: None)
    elif case == "iterator":
        rows = predictor.predict([image] * 100, batch_size=1)
        next(rows)
        in_child(lambda: list(rows))
        say(sum(row.ok for row in rows))
    elif case == "busy":
        # Fork a child while another thread holds every stream.
        engine = open_engine(predictor.bundle, backend)  # type: ignore[arg-type]
        with engine._taken():
            in_child(lambda: engine.run(np.zeros((1, 256, 256, 3), np.uint8)))
            in_child(engine.close)
    elif case == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=each_call, args=(predictor, image))
        process.start()
        process.join(HANGS_AFTER_S)
        say("hangs" if process.is_alive() else f"exit {process.exitcode}")
        process.kill()
    elif case in ("pool by fork", "pool by spawn"):
        context = multiprocessing.get_context(case.split()[-1])
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                say(pool.submit(ask, predictor, image).result(HANGS_AFTER_S) == label)
            except (alexnet_deploy.BackendError, BrokenProcessPool) as error:
                say(error)
    elif case in ("map by fork", "map by spawn"):
        with multiprocessing.get_context(case.split()[-1]).Pool(1) as pool:
            try:
                say(len(set(pool.map(engine_of, [predictor] * 3, chunksize=1))))
            except alexnet_deploy.BackendError as error:
                say(error)
    else:
        raise ValueError(case)
    assert ask(predictor, image) == label, "the parent continues"
    say("parent continues")


if __name__ == "__main__":
    main(*sys.argv[1:4], case=" ".join(sys.argv[4:]))
    assert Path(sys.argv[1]).is_dir()
