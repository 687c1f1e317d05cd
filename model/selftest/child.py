"""The process of one check: python -m model.selftest.child NAME ANSWER < SETUP

reads a Setup as JSON, and writes the results as JSON to the file ANSWER. NAME is that of a check,
or "machine", whose answer is the lines about the machine.
"""

import json
import os
import sys
from pathlib import Path

from log.command import command
from model.devices import import_mxnet
from model.selftest.checks import BY_NAME
from model.selftest.setup import Setup, results_json


def main() -> int:
    with command("model.selftest.child", writes_files=True) as outcome:
        name, answer = sys.argv[1:]
        setup = Setup.from_json(sys.stdin.read())
        outcome.begun()
        if name == "machine":
            given = dict(os.environ)  # before `import_mxnet` adds what is not set
            import_mxnet()
            from model.selftest.machine import describe

            text = json.dumps(describe(given))
        else:
            check = BY_NAME[name]
            if check.trains_here:
                import_mxnet(1 if setup.on_gpus else len(setup.ids))
            text = results_json(check.run(setup))
        Path(answer).write_text(text)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
