"""What the tests of the script share: runs of a thin network, and what they leave."""

import pytest

from tests.runs import start

EPOCHS = 4
LOGS = {"x.log", "x-metrics.jsonl", "x-config.json"}


@pytest.fixture(scope="session")
def through(records, once):
    """A run of 4 epochs that nothing interrupts, of the thin network; its folder."""

    def make(folder):
        done = start(folder, *arguments(records), "--model-prefix=x", "--log-file=x.log")
        assert done.returncode == 0, done.stderr

    return once("through", make)


def arguments(records):
    # A step of the learning rate within; --frequent 5 in an epoch of 12 batches.
    return [*records.thin, f"--num-epochs={EPOCHS}", "--lr-steps=2"]
