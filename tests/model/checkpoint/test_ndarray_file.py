"""model.checkpoint.ndarray_file: MXNet's own format, and every way to damage it."""

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import ndarray_file

# MXNet hands names out as C strings: no NUL. No surrogates: they are no text.
names = st.text(
    st.characters(min_codepoint=1, blacklist_categories=["Cs"]), min_size=1, max_size=20
)


arrays = st.tuples(
    st.sampled_from(["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
).map(lambda pair: np.arange(np.prod(pair[1])).astype(pair[0]).reshape(pair[1]))


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(names, arrays, min_size=1, max_size=4))
def test_ndarray_files_are_mxnets_own(tmp_path_factory, content):
    path = str(tmp_path_factory.mktemp("nd") / "x.params")
    with open(path, "wb") as file:
        ndarray_file.dump(content, file.write)
    theirs = mx.nd.load(path)
    assert theirs.keys() == content.keys()
    mx.nd.save(path, theirs)
    with open(path, "rb") as file:
        ours = ndarray_file.parse(file.read())
    for name, array in content.items():
        for read in (theirs[name].asnumpy(), ours[name]):
            assert read.dtype == array.dtype and np.array_equal(read, array)


# A small file, and every way to damage it.
CONTENT = {"arg:weight": np.arange(6, dtype="f4").reshape(2, 3), "aux:mean": np.zeros(3, "f4")}


_PIECES = []
ndarray_file.dump(CONTENT, lambda piece: _PIECES.append(bytes(piece)))


GOOD = b"".join(_PIECES)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_truncated_ndarray_file_is_an_error(length):
    with pytest.raises(ndarray_file.FormatError):
        ndarray_file.parse(GOOD[:length])


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_bit_is_an_error_or_another_value(bit):
    """The format has no checksum: what parses has the shapes it says, and no crash."""
    damaged = bytearray(GOOD)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        parsed = ndarray_file.parse(bytes(damaged))
    except ndarray_file.FormatError:
        return
    assert sum(array.nbytes for array in parsed.values()) <= len(GOOD)
