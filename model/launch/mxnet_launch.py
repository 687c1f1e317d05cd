"""MXNet's own launch.py, on Python 3.9 to 3.11 too.

    python -m model.launch.mxnet_launch -n 2 -s 2 --launcher ssh -H hosts COMMAND...

Its tracker calls Thread.isAlive, which Python 3.9 removed.
"""

import runpy
import threading
from importlib.util import find_spec
from pathlib import Path


def main():
    if not hasattr(threading.Thread, "isAlive"):
        threading.Thread.isAlive = threading.Thread.is_alive
    # Not imported: with DMLC_ROLE in the environment, mxnet would become a server.
    tools = Path(find_spec("mxnet").origin).parent / "tools"
    runpy.run_path(str(tools / "launch.py"), run_name="__main__")


if __name__ == "__main__":
    main()
