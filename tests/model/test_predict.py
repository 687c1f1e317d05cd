"""model/predict.py: what validation saw, seen again in image files."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import cv2
import mxnet as mx
import numpy as np
import pytest

from data import pack
from data.formats.classes import printable
from data.formats.images import ImageError
from model.inference.images import Unreadable, image_paths, prepare_image, read_image
from model.predict import main
from tests.data.test_pack import BAD, GOOD, write_folder
from tests.runs import ROOT, start

NAMES = [f"Ziffer {i}" for i in range(9)] + ["größte Ziffer"]


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """Folder of a run with class names: x-0001; and images/, its validation images as files,
    LABEL-NUMBER.png."""
    folder = tmp_path_factory.mktemp("trained")
    for rec in (records.train, records.val):
        shutil.copy(rec, folder)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES), "utf-8")
    arguments = [*records.thin, f"--data-dir={folder}", "--model-prefix=x", "--log-file=x.log"]
    pixels = ["--rgb-mean=20,30,40", "--rgb-std=50,60,70", "--image-shape=3,28,28"]
    process = start(folder, *arguments, *pixels, "--num-epochs=2", "--lr=0.05")
    assert process.returncode == 0, process.stderr
    reader = mx.recordio.MXRecordIO(str(records.val), "r")
    (folder / "images" / "more").mkdir(parents=True)
    for i in range(40):
        header, content = mx.recordio.unpack(reader.read())
        place = "images/more" if i % 2 else "images"
        (folder / place / f"{int(header.label)}-{i:02d}.png").write_bytes(content)
    return folder


def predict(folder, *words, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "model.predict", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60"},
        input=stdin,
        capture_output=True,
        text=True,
    )


def test_predictions_are_the_validations(trained):
    """Accuracy and cross-entropy of the run's own validation, in batches that don't divide it."""
    process = predict(trained, "x", 2, "images", "--json", "--top=10", "--batch-size=7")
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert len(found) == 40
    run = json.loads((trained / "x-0002.json").read_text())["run"]
    assert run["settings"]["short_side"] == 32 and run["settings"]["classes"] == NAMES
    right, surprise = 0, 0
    for image in found:
        ranked = image["classes"]
        probabilities = [each["probability"] for each in ranked]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(each["name"] == NAMES[each["class"]] for each in ranked)
        label = int(os.path.basename(image["image"]).split("-")[0])
        right += ranked[0]["class"] == label
        surprise -= np.log(next(p["probability"] for p in ranked if p["class"] == label) + 1e-12)
    assert right / 40 == pytest.approx(run["validation"]["accuracy"])
    assert surprise / 40 == pytest.approx(run["validation"]["cross-entropy"], rel=1e-4)


def test_prediction_sees_what_was_packed(tmp_path):
    """Whatever is in a folder: the same files, the same pixels before they become a JPEG, the same
    files left out."""
    folder = tmp_path / "in" / "a"
    files = {name: file for name, (file, _) in {**GOOD, **BAD}.items()}
    write_folder(folder, files)
    write_folder(tmp_path / "in" / "b", {"x.jpg": GOOD["plain.jpg"][0]})
    (folder / "linked").symlink_to(tmp_path / "in" / "b")
    sizes = ["--val-fraction=0", "--resize=40", "--num-thread=1"]
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out"), *sizes]) == 0
    rows = [line.split("\t") for line in (tmp_path / "out" / "train.lst").read_text().splitlines()]
    reader = mx.recordio.MXRecordIO(str(tmp_path / "out" / "train.rec"), "r")
    packed = {}
    for header, content in map(mx.recordio.unpack, iter(reader.read, None)):
        packed[rows[header.id][2]] = content
    seen = {}
    for path in image_paths([str(folder)]):
        try:
            pixels = prepare_image(read_image(path), (3, 40, 60), 40, (0,) * 3, (1,) * 3)
        except (Unreadable, ImageError) as error:
            assert "\n" not in str(error).replace(path, "")
            continue
        jpeg = cv2.imencode(".jpg", pixels.transpose(1, 2, 0)[:, :, ::-1].astype(np.uint8),
                            [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()  # fmt: skip
        seen[printable(os.path.relpath(path, tmp_path / "in"))] = jpeg
    assert seen == {name: content for name, content in packed.items() if name[0] == "a"}
    assert len(seen) == len(GOOD) + 1


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(trained, tmp_path):
    image = next((trained / "images").glob("*.png"))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "nothing").mkdir()
    shutil.copy(image, tmp_path / "good.png")
    words = ["text.png", "good.png", "empty.jpg", "nothing", "gone.png", str(image)]
    process = predict(tmp_path, trained / "x", 2, "-", "--csv", "--top=3", stdin="\n".join(words))
    assert process.returncode == 1
    lines = process.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == [words[i] for i in (0, 2, 3, 4)]
    header, *rows = csv.reader(io.StringIO(process.stdout))
    assert header == ["image", "rank", "class", "name", "probability"]
    assert [row[:2] for row in rows] == [
        [w, str(k)] for w in (words[1], words[5]) for k in (1, 2, 3)
    ]
    assert [row[2:] for row in rows[:3]] == [row[2:] for row in rows[3:]]


def test_a_bar_for_each_class(trained):
    image = next((trained / "images").glob("*.png"))
    process = predict(trained, "x", 2, image, "--top", 99, "--gpus=")
    name, *lines = process.stdout.splitlines()
    assert (process.returncode, name, len(lines)) == (0, str(image), 10)
    width = max(map(len, NAMES))
    for line in lines:
        assert line[2 : 2 + width].strip() in NAMES and len(line) <= 60
        probability = float(line[2 + width :].split()[0])
        assert line.count("█") == pytest.approx(probability * (60 - width - 12), abs=0.51)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x", "3", "images"], "x has no checkpoint of epoch 3; there are: epoch 1, epoch 2"),
        (["x", "-1", "images"], "EPOCH"),
        (["x", "2"], "IMAGE"),
        (["x", "2", "images", "--gpus=7"], "GPU 7"),
        (["x", "2", "images", "--gpu=7"], "GPU 7"),
        (["x", "2", "images", "--json", "--csv"], "--csv"),
        (["plain", "2", "images"], "plain, epoch 2 does not say which images it takes: give"),
        (["x", "2", "images", "--json", "--features=f.npz"], "--features"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(trained, words, says):
    for ending in ("symbol.json", "0002.params"):
        shutil.copy(trained / f"x-{ending}", trained / f"plain-{ending}")
    process = predict(trained, *words)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert says in process.stderr


def test_a_plain_checkpoint_predicts_as_it_is_told_to_prepare_images(trained, capsys):
    for ending in ("symbol.json", "0002.params"):
        shutil.copy(trained / f"x-{ending}", trained / f"plain-{ending}")

    def predicted(prefix, *more):
        words = [str(trained / prefix), "2", str(trained / "images"), "--json", *more]
        assert main(words) == 0
        out, err = capsys.readouterr()
        classes = [each for image in json.loads(out) for each in image["classes"]]
        return [(each["class"], each["probability"]) for each in classes], err

    given = ["--short-side=32", "--rgb-mean=20,30,40", "--rgb-std=50,60,70"]
    expected, _ = predicted("x")
    assert predicted("plain", "--image-shape=3,28,28", *given) == (expected, "")
    found, said = predicted("plain", "--image-shape=3,28,28", given[1])
    assert found != expected
    assert said.endswith("assumed: std 1,1,1 (--rgb-std), no resizing (--short-side)\n")


def test_features(trained, tmp_path):
    """The pooled features of the images, as the classifier reads them."""
    (tmp_path / "bad.png").write_text("no image")
    words = ["images", tmp_path / "bad.png", "--batch-size=7", "--features", tmp_path / "f.npz"]
    process = predict(trained, "x", 2, *words)
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert process.stdout == f"{tmp_path}/f.npz: 32 features of each of 40 images\n"
    found = np.load(tmp_path / "f.npz")
    paths = sorted(map(str, trained.glob("images/**/*.png")))
    assert [str(trained / path) for path in found["images"]] == paths
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(trained / "x"), 2)
    module = mx.mod.Module(symbol.get_internals()["flatten_output"], label_names=None)
    module.bind([("data", (40, 3, 28, 28))])
    module.set_params(arg_params, aux_params, allow_extra=True)
    pixels = [prepare_image(read_image(path), (3, 28, 28), 32, (20, 30, 40), (50, 60, 70))
              for path in paths]  # fmt: skip
    module.forward(mx.io.DataBatch([mx.nd.array(np.array(pixels))]), is_train=False)
    expected = module.get_outputs()[0].asnumpy()
    assert (found["features"].shape, found["features"].dtype) == ((40, 32), np.float32)
    np.testing.assert_allclose(found["features"], expected, atol=1e-4 * expected.max())


def test_the_input_is_that_of_validation(tmp_path):
    """Files, by way of im2rec and ImageRecordIter or straight: the same numbers to the bit."""
    random = np.random.RandomState(0)
    (tmp_path / "images").mkdir()
    lines = []
    for i, (height, width) in enumerate([(40, 40), (61, 90), (333, 77), (41, 400), (20, 21)]):
        cv2.imwrite(
            str(tmp_path / "images" / f"{i}.png"), random.randint(0, 256, (height, width, 3))
        )
        lines.append(f"{i}\t0\t{i}.png\n")
    (tmp_path / "all.lst").write_text("".join(lines))
    script = os.path.join(os.path.dirname(mx.__file__), "tools", "im2rec.py")
    shape, mean, std = (3, 32, 36), (123.68, 116.78, 103.94), (58.4, 57.1, 57.4)
    for resize in (40, 33, 0):
        subprocess.run(
            [sys.executable, script, "all", "images", "--encoding=.png", f"--resize={resize}"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        images = mx.io.ImageRecordIter(
            path_imgrec=str(tmp_path / "all.rec"),
            data_shape=shape,
            batch_size=len(lines),
            verbose=False,
            **{f"mean_{c}": value for c, value in zip("rgb", mean)},
            **{f"std_{c}": value for c, value in zip("rgb", std)},
        )
        expected = images.next().data[0].asnumpy()
        for i in range(len(lines)):
            pixels = read_image(tmp_path / "images" / f"{i}.png")
            found = prepare_image(pixels, shape, resize or None, mean, std)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected[i], err_msg=f"{resize}, image {i}")
