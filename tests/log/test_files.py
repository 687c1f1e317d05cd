"""log.files and log.schema: what is read is a file of the right form, what is written is whole."""

import errno
import json
import os
import socket
import stat

import pytest

from log import LogError, schema
from log.files import read_file, read_json, read_text, unpickle, write_whole


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def unix_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def sparse(path):
    path.touch()
    os.truncate(path, 200 << 30)


def loop(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fifo, "not a regular file, not a picture"),
        (device, "not a regular file, not a picture"),
        (folder, "a folder, not a picture"),
        (unix_socket, "No such device or address"),
        (sparse, "204800 MB, more than the 16384 MB that a picture can have"),
        (loop, "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_is_no_file_is_one_line(tmp_path, monkeypatch, make, says):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(tmp_path / "x") if make is not unix_socket else make("x")
    with pytest.raises(LogError) as error:
        read_file(tmp_path / "x", LogError, what="a picture")
    assert str(error.value) == f"{tmp_path / 'x'}: {says}"


def test_a_name_that_no_file_can_have():
    with pytest.raises(LogError, match="null byte"):
        read_file("a\0b", LogError)


def test_text_is_utf8_with_newlines(tmp_path):
    (tmp_path / "x").write_bytes("ä\r\nb\rc\n".encode())
    assert read_text(tmp_path / "x", LogError) == "ä\nb\nc\n"
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(LogError, match="x: not UTF-8 text"):
        read_text(tmp_path / "x", LogError)


FORM = schema.entries(
    {"epoch": schema.whole(), "classes": schema.optional(schema.list_of(schema.text))},
    {"mean": schema.list_of(schema.number(), 3), "best": schema.map_of(schema.number(0, 1)),
     "places": schema.list_of(schema.tuple_of(schema.whole(1), schema.true_or_false))},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ('{"epoch": 1,', "Expecting property name"),
        ("[" * 10_000 + "]" * 10_000, "nested too deeply"),
        ('{"epoch":' * 10_000, "nested too deeply"),
        ("\xff", "codec can't decode"),
        ("[]", "it must be an object"),
        ("{}", "epoch is missing"),
        ('{"epoch": true, "classes": null}', "epoch must be a whole number from 0 up, not True"),
        ('{"epoch": -1, "classes": null}', "epoch must be a whole number from 0 up, not -1"),
        ('{"epoch": 1e300, "classes": null}', "epoch must be a whole number from 0 up"),
        ('{"epoch": 1, "classes": "ab"}', "classes must be a list, not 'ab'"),
        ('{"epoch": 1, "classes": ["a", 2]}', "classes[1] must be a text, not 2"),
        ('{"epoch": 1, "classes": [], "mean": [1, 2]}', "mean must be a list of 3"),
        ('{"epoch": 1, "classes": [], "mean": [1, 2, "3"]}', "mean[2] must be a number"),
        ('{"epoch": 1, "classes": [], "best": {"x": NaN}}', "best.x must be a number"),
        ('{"epoch": 1, "classes": [], "places": [[1, 0]]}', "places[0][1] must be true or false"),
    ],
)
def test_json_of_another_form_is_one_line(tmp_path, text, says):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(LogError) as error:
        read_json(path, LogError, FORM, "move it away")
    line = str(error.value)
    assert line.startswith(f"{path}: damaged: ") and line.endswith(": move it away")
    assert says in line and len(line.splitlines()) == 1 and len(line) < 300


def test_json_of_the_form_is_read(tmp_path):
    value = {"epoch": 3, "classes": ["a"], "mean": [0, 1.5, -2], "best": {"x": 0.5}, "more": [None]}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json", LogError, FORM) == value


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "x"
    write_whole(path, b"first")

    def breaks(write):
        write(b"sec")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        write_whole(path, breaks)
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("make", [fifo, device, folder])
def test_what_is_no_file_is_not_replaced(tmp_path, make):
    make(tmp_path / "x")
    kind = stat.S_IFMT(os.stat(tmp_path / "x").st_mode)
    with pytest.raises(OSError):
        write_whole(tmp_path / "x", b"content")
    assert stat.S_IFMT(os.stat(tmp_path / "x").st_mode) == kind
    assert os.listdir(tmp_path) == ["x"]


def test_a_pickle_runs_no_code(tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(pickle.UnpicklingError, match=r"it names posix\.mkdir"):
        unpickle(pickle.dumps(Attack()), frozenset())
    assert not os.listdir(tmp_path)
    assert unpickle(pickle.dumps([1, {"a": 2.5}]), frozenset()) == [1, {"a": 2.5}]
