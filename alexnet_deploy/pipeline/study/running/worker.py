"""A process for runs of a study: python -m alexnet_deploy.pipeline.study.running.worker OUT.

It reads the folders of runs from its standard input, one a line, and answers each on its standard output when the run
has its score. It ends as soon as its input ends: when the process that started it ends, even if that one is killed.
"""

import os
import queue
import sys
import threading
from pathlib import Path

from alexnet_deploy.core.process.interruption import install, unwinding


def main(out: Path) -> int:
    """Finish the runs; return the exit code of the first error."""
    folders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(folders,), daemon=True).start()
    from alexnet_deploy.core.errors import AlexNetDeployError
    from alexnet_deploy.core.process.memory import keep_freed_memory
    from alexnet_deploy.core.process.say import printable
    from alexnet_deploy.pipeline.study.plan import load_plan
    from alexnet_deploy.pipeline.study.running.runs import Workplace, finish, planned_run, report

    def say(line: str) -> None:
        sys.stderr.write(f"{printable(line)}\n")

    keep_freed_memory()
    while True:
        folder = folders.get()
        try:
            plan = load_plan(out)
            assert plan is not None, "a study writes its plan before it starts a run"
            run = planned_run(out, plan, folder)
            report(run, finish(out, plan, run, Workplace(say=say)), say)
        except AlexNetDeployError as error:
            say(f"{folder}: {error}")
            return error.exit_code
        os.write(1, f"{folder}\n".encode())


def _listen(folders: "queue.SimpleQueue[str]") -> None:
    """Pass on each line of the standard input; end the process when it ends."""
    for line in sys.stdin:
        folders.put(line.removesuffix("\n"))
    os._exit(0)


if __name__ == "__main__":
    install()
    with unwinding():
        sys.exit(main(Path(sys.argv[1])))
