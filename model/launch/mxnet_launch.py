"""MXNet's own launch.py, on Python 3.9 to 3.11 too.

    python -m model.launch.mxnet_launch -n 2 -s 2 --launcher ssh -H hosts COMMAND...

Its tracker calls Thread.isAlive, which Python 3.9 removed.
"""

import runpy
import sys
import threading

from log.command import command
from model.devices import folder_of_mxnet


def main() -> int:
    with command("model.launch.mxnet_launch") as outcome:
        # Not imported: with DMLC_ROLE in the environment, mxnet would become a server.
        script = folder_of_mxnet() / "tools" / "launch.py"
    if outcome.code == 0:
        if sys.version_info >= (3, 9):
            threading.Thread.isAlive = threading.Thread.is_alive
        runpy.run_path(str(script), run_name="__main__")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
