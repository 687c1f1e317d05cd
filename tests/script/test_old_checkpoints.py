"""Checkpoints of earlier commits (tests/fixtures) resume as they did there."""

import json
import tarfile
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from model.checkpoint import Checkpoints, Place, ndarray_file
from tests.fixtures.make_old_checkpoint import ENVIRONMENT, make_records, rounding
from tests.runs import metrics, start

FIXTURES = Path(__file__).parent.parent / "fixtures"
BEFORE_THE_ROOMS = "d1392dc"


@pytest.fixture(params=[BEFORE_THE_ROOMS])
def old(request, tmp_path):
    """A folder with an old fixture, and the records of its runs in interrupted/images."""
    with tarfile.open(FIXTURES / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path)
    make_records(tmp_path / "interrupted" / "images")
    return tmp_path


def arrays(path) -> dict:
    return ndarray_file.parse(path.read_bytes())


def assert_same(found, expected, tolerance):
    """Compare arrays by name. tolerance : of an array's largest value; 0 for the same bits."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if tolerance:
            largest = max(abs(array).max(), 1e-3)
            np.testing.assert_allclose(found[name], array, 0, tolerance * largest, err_msg=name)
        else:
            assert np.array_equal(found[name], array), name


# On other CPUs. Parameters that were changed by 1e-6 of each moved the end of the run by 3e-5 (the
# momentum by 2e-3); a momentum or a waiting gradient that was lost by 0.08 (the momentum by 2).
TOLERANCES = {"x-0002.params": 1e-3, "x-0002.states": 3e-2, "x-ema-0002.params": 1e-3}


@pytest.mark.parametrize("more", [[], ["--model-load-epoch=1"]])
def test_an_old_checkpoint_resumes_to_the_same_bits(old, more):
    """From within an epoch, and from the end of one. On a CPU on which MXNet rounds as it did on
    the one that made the fixture, the same bits; elsewhere, the same within these roundings."""
    folder, finished = old / "interrupted", old / "finished"
    made = json.loads((old / "made.json").read_text())
    exact = made["rounding"] == rounding()
    print("compared", "to the bit" if exact else "within roundings: another CPU")
    process = start(folder, *made["arguments"], "--retrain=auto", *more, **ENVIRONMENT)
    assert process.returncode == 0, process.stderr
    place = "epoch 1" if more else "epoch 1, batch 5"
    assert f"{place}\n" in process.stdout
    assert "changed since" not in process.stdout
    for name, tolerance in TOLERANCES.items():
        assert_same(arrays(folder / name), arrays(finished / name), 0 if exact else tolerance)
    lines = metrics(folder)
    assert [list(line) for line in lines] == [list(line) for line in metrics(finished)]
    if exact:
        assert lines == metrics(finished)
    # Each setting is written again under its name, and so was compared with the present one.
    before = json.loads((finished / "x-0002.json").read_text())
    after = json.loads((folder / "x-0002.json").read_text())
    assert after["run"]["settings"].items() >= before["run"]["settings"].items()
    assert after["run"].keys() >= before["run"].keys()
    for name in ("lr", "lr_epoch", "updates", "first_update", "batches", "figures"):
        assert after["run"][name] == before["run"][name], name
    assert after["format"] == before["format"]


def test_plain_mxnet_and_this_code_read_the_same(old):
    prefix = old / "interrupted" / "x"
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(prefix), 1)
    assert set(symbol.list_arguments()) == {"data", *arg_params, "softmax_label"}
    assert set(symbol.list_auxiliary_states()) == set(aux_params)
    generation = Checkpoints(prefix).load(Place(1))
    assert generation.symbol_json == symbol.tojson()
    for kind, params in (("arg", arg_params), ("aux", aux_params)):
        for name, array in params.items():
            assert np.array_equal(generation.params[f"{kind}:{name}"], array.asnumpy()), name
