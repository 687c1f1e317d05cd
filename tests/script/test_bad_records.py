"""Records that can't be read, found while a run reads them."""

import re
import shutil
import signal

import mxnet as mx
import pytest

from tests.runs import digest, figures, refused, start, start_until
from tests.script.conftest import EPOCHS, arguments


@pytest.fixture(scope="module")
def fat(records, tmp_path_factory):
    """The training records in 48 MB, which MXNet reads in two pieces, the second from about record
    64 on; with a folder of the same in which the image of record 90 is no image."""
    folder = tmp_path_factory.mktemp("fat")
    source = mx.recordio.MXRecordIO(str(records.train), "r")
    for name in ("good", "bad"):
        (folder / name).mkdir()
        source.reset()
        target = mx.recordio.MXRecordIO(str(folder / name / "train.rec"), "w")
        for number in range(96):
            header, image = mx.recordio.unpack(source.read())
            image = b"no image" if name == "bad" and number == 90 else image
            target.write(mx.recordio.pack(header._replace(id2=0), image + bytes(500_000)))
        target.close()
        shutil.copy(records.val, folder / name)
    return folder


def test_a_bad_record_is_named_and_the_run_goes_on_from_there_exactly(run, records, fat, tmp_path):
    given = [*arguments(records), "--num-epochs=2", "--model-prefix=x", "--log-file=x.log"]
    whole = [*given, f"--data-dir={fat / 'good'}", "--model-prefix=y", "--log-file=y.log"]
    assert run(*whole).returncode == 0
    process = run(*given, f"--data-dir={fat / 'bad'}")
    error = refused(process, code=1)
    offset = 90 * ((fat / "bad" / "train.rec").stat().st_size // 96)
    place = re.search(r"record 90 at byte (\d+): not an image that MXNet can decode", error)
    assert abs(int(place[1]) - offset) < 100_000
    assert "--skip-bad-records" in error
    (saved,) = tmp_path.glob("x-0000-*.params")
    batches = int(saved.stem.split("-")[-1])
    assert f"stopped at epoch 0, batch {batches}; the same command with --retrain" in process.stdout
    assert 1 <= batches < 12
    # With the record repaired it ends in the bits of a run that met none.
    assert run(*given, f"--data-dir={fat / 'good'}", "--retrain").returncode == 0
    assert digest(tmp_path, "x", 2) == digest(tmp_path, "y", 2)
    assert figures(tmp_path / "x.log") == figures(tmp_path / "y.log")


def test_records_that_change_between_two_epochs(records, through, tmp_path):
    """The run ends with the first epoch's checkpoint, though it is not due."""
    training = tmp_path / "train.rec"
    shutil.copy(records.train, training)
    given = [
        *arguments(records), f"--data-train={training}", "--model-prefix=x", "--log-file=x.log",
        "--checkpoint-epochs=9",
    ]  # fmt: skip
    process = start_until("line Epoch[0] Validation-accuracy", tmp_path, *given)
    training.write_bytes(training.read_bytes() * 2)
    process.send_signal(signal.SIGCONT)
    rest, error = process.communicate()
    assert process.returncode == 1 and error.count("\n") == 1
    size = records.train.stat().st_size
    assert f"train.rec: changed while it was read ({size} bytes, now {2 * size}): " in error
    assert "stopped at epoch 1;" in rest
    assert [path.name for path in tmp_path.glob("x-0*.params")] == ["x-0001.params"]
    shutil.copy(records.train, training)
    assert start(tmp_path, *given, "--retrain").returncode == 0
    assert digest(tmp_path, "x", EPOCHS) == digest(through, "x", EPOCHS)


def test_a_bad_validation_record_costs_no_epoch(run, records, fat, tmp_path):
    given = [*arguments(records), "--model-prefix=x", "--checkpoint-epochs=4"]
    process = run(*given, f"--data-val={fat / 'bad' / 'train.rec'}")
    assert process.returncode == 1 and "record 90 at byte" in process.stderr
    assert [path.name for path in tmp_path.glob("x-0*.params")] == ["x-0001.params"]


def test_bad_records_are_left_out_if_wished(run, records, fat, tmp_path):
    """And an interrupted run goes on exactly, with the same records."""
    shutil.copytree(fat / "bad", tmp_path / "bad")
    given = [*arguments(records), f"--data-dir={tmp_path / 'bad'}", "--num-epochs=2"]
    given += ["--skip-bad-records", "--log-file=x.log"]
    whole = run(*given, "--model-prefix=x")
    assert whole.returncode == 0, whole.stderr
    assert "train.rec: 1 bad records left out, the first record 90 at byte" in whole.stdout
    assert "95 images of 10 classes, 12 batches an epoch" in whole.stdout
    assert run(*given, "--model-prefix=y", "--num-epochs=1").returncode == 0
    again = run(*given, "--model-prefix=y", "--retrain")
    assert "1 bad records left out" in again.stdout
    assert digest(tmp_path, "x", 2) == digest(tmp_path, "y", 2)
