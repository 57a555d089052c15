"""The process of one run: python -m alexnet_deploy.pipeline.study.running.worker OUT FOLDER.

It ends as soon as its standard input ends: when the process that started it ends, even if that one is killed.
"""

import os
import sys
import threading
from pathlib import Path

from alexnet_deploy.core.process.interruption import install, unwinding


def main(out: Path, folder: str) -> int:
    """Finish a run; return an exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from alexnet_deploy.core.errors import AlexNetDeployError
    from alexnet_deploy.core.process.say import printable
    from alexnet_deploy.pipeline.study.plan import load_plan
    from alexnet_deploy.pipeline.study.running.runs import Workplace, finish, planned_run, report

    def say(line: str) -> None:
        sys.stderr.write(f"{printable(line)}\n")

    try:
        plan = load_plan(out)
        assert plan is not None, "a study writes its plan before it starts a run"
        run = planned_run(out, plan, folder)
        report(run, finish(out, plan, run, Workplace(say=say)), say)
    except AlexNetDeployError as error:
        say(f"{folder}: {error}")
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    install()
    with unwinding():
        sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
