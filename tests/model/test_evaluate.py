"""model.evaluate: the figures of a network, against numpy over every image."""

import csv
import shutil
import subprocess
import sys

import cv2
import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import symbol_xception
from data.formats.classes import write_class_names
from data.packing.writer import encode_png, write_records
from model import evaluate
from model.checkpoint import Checkpoints, Place
from model.network import scores
from model.network.params import numpy_params
from tests.runs import ROOT

SMALL = (8, 8, 8, 8, 8, 8, 12)
CLASSES = 7
COUNT = 23  # no batch size below divides it
SIZE, CROP = 40, 32
MEAN, STD = (10, 20, 30), (500, 600, 700)


def pictures() -> np.ndarray:
    """Images of noise in colours of its own, (23, 40, 40, 3) R G B."""
    rng = np.random.RandomState(0)
    noise = rng.randint(0, 100, (COUNT, SIZE, SIZE, 3)) + rng.randint(0, 156, (COUNT, 1, 1, 3))
    return noise.astype(np.uint8)


LABELS = [(3 * i) % 5 for i in range(COUNT)]  # none of classes 5 and 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Records, and a network whose answers differ from image to image, as a checkpoint and as
    MXNet writes one."""
    folder = tmp_path_factory.mktemp("trained")
    items = [(label, encode_png(image[:, :, ::-1])) for label, image in zip(LABELS, pictures())]
    write_records(folder / "val.rec", items, COUNT)
    write_class_names(folder, [f"class {i}, $x" for i in range(CLASSES)])
    mx.random.seed(0)
    symbol = symbol_xception.get_xception_symbol(CLASSES, filter_list=SMALL)
    module = mx.mod.Module(symbol)
    module.bind([("data", (2, 3, CROP, CROP))], [("softmax_label", (2,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    module.save_checkpoint(str(folder / "plain"), 3)
    settings = {"image_shape": [3, CROP, CROP], "rgb_mean": MEAN, "rgb_std": STD,
                "short_side": SIZE}  # fmt: skip
    Checkpoints(folder / "x").save(
        Place(3), symbol.tojson(), numpy_params(*module.get_params()), {}, {"settings": settings}
    )
    return folder


def probabilities(folder, views) -> np.ndarray:
    """What plain MXNet says of (N, H, W, 3) pixels, one image at a time, in float64."""
    module = mx.mod.Module(mx.sym.load(str(folder / "plain-symbol.json")))
    module.bind([("data", (1, 3, CROP, CROP))], [("softmax_label", (1,))], for_training=False)
    module.set_params(*mx.model.load_params(str(folder / "plain"), 3))
    inputs = ((views - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    outputs = []
    for image in inputs:
        module.forward(mx.io.DataBatch([mx.nd.array(image[None])]), is_train=False)
        outputs.append(module.get_outputs()[0].asnumpy()[0].astype(np.float64))
    return np.array(outputs)


def crops(images, ten) -> list:
    """Ten views of square images, or the middle alone."""
    gap = images.shape[1] - CROP
    corners = [(gap // 2, gap // 2)] + [(a, b) for a in (0, gap) for b in (0, gap)] * ten
    views = [images[:, a : a + CROP, b : b + CROP] for a, b in corners]
    return views + [view[:, :, ::-1] for view in views] * ten


def by_hand(folder, ten=False, scales=(SIZE,)) -> dict:
    sizes = [
        np.array([cv2.resize(i, (s, s)) if s != SIZE else i for i in pictures()]) for s in scales
    ]
    views = [probabilities(folder, view) for images in sizes for view in crops(images, ten)]
    mean = np.mean(views, axis=0)
    order = np.argsort(-mean, axis=1)
    own = mean[np.arange(COUNT), LABELS]
    return {
        "accuracy": np.mean(order[:, 0] == LABELS),
        "top_k_accuracy_5": np.mean([label in row[:5] for label, row in zip(LABELS, order)]),
        "cross-entropy": np.mean(-np.log(own)),
        "taken": order[:, 0],
    }


def figures(capsys) -> dict:
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {name: float(value) for name, value in (words for words in lines if len(words) == 2)}


def arguments(folder, *more) -> list:
    return [str(folder / "x"), "3", "--data-val", str(folder / "val.rec"), *more]


@pytest.mark.parametrize(
    "more",
    ["--batch-size=1", "--batch-size=5", "--batch-size=9 --cpus=3", "--batch-size=30 --cpus=3",
     "--batch-size=64", "--batch-size=6 --ten-crop", "--batch-size=4 --scales=36,40",
     "--batch-size=9 --cpus=3 --ten-crop --scales=40,48"],
)  # fmt: skip
def test_figures_are_those_of_numpy_over_every_image(trained, capsys, more):
    wanted = by_hand(
        trained,
        "--ten" in more,
        eval(more.split("--scales=")[1]) if "--scales" in more else (SIZE,),
    )
    assert 0 < wanted["accuracy"] < wanted["top_k_accuracy_5"] < 1
    capsys.readouterr()
    assert evaluate.main(arguments(trained, *more.split())) == 0
    found = figures(capsys)
    for name in ("accuracy", "top_k_accuracy_5", "cross-entropy"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-5), name


def test_the_report(trained, tmp_path, capsys):
    words = [sys.executable, "-m", "model.evaluate", *arguments(trained)]
    words += ["--per-class", "--report", str(tmp_path / "new" / "r")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = by_hand(trained)["taken"]
    expected = np.zeros((CLASSES, CLASSES), int)
    for label, guess in zip(LABELS, taken):
        expected[label, guess] += 1
    with open(tmp_path / "new" / "r-confusion.csv", newline="") as file:
        head, *rows = list(csv.reader(file))
    names = [f"class {i}, $x" for i in range(CLASSES)]
    assert head[1:] == [row[0] for row in rows] == names
    assert np.array_equal(np.array([row[1:] for row in rows], int), expected)
    with open(tmp_path / "new" / "r-classes.csv", newline="") as file:
        _, *table = list(csv.reader(file))
    for i, (name, images, right, recall, precision) in enumerate(table):
        assert (name, int(images), int(right)) == (names[i], LABELS.count(i), expected[i, i])
        assert recall == ("" if i >= 5 else str(expected[i, i] / LABELS.count(i)))
        count = expected[:, i].sum()
        assert precision == (str(expected[i, i] / count) if count else "")
        assert f"{name}  {images:>6}  {right:>7}" in done.stdout
    picture = cv2.imread(str(tmp_path / "new" / "r-confusion.png"))
    assert picture.shape[0] > 300


def test_best_is_the_checkpoint_of_the_link(trained, tmp_path, capsys):
    for file in trained.glob("x-*"):
        shutil.copy(file, tmp_path)
    link = tmp_path / "x-best.params"
    best = [str(tmp_path / "x"), "best", *arguments(trained)[2:]]
    assert evaluate.main(best) == 2
    assert f"{link} is missing: give an epoch" in capsys.readouterr().err
    Checkpoints(tmp_path / "x").set_best(Place(3))
    assert evaluate.main(best) == 0
    of_best = capsys.readouterr().out
    assert evaluate.main([best[0], "3", *best[2:]]) == 0
    assert of_best == capsys.readouterr().out and "x, epoch 3: 23 images" in of_best
    link.unlink()
    shutil.copy(tmp_path / "x-0003.params", link)  # as where there are no links
    assert evaluate.main(best) == 2
    assert f"{link}: a copy, not a link: give the epoch" in capsys.readouterr().err


def test_a_checkpoint_of_plain_mxnet(trained, capsys):
    """It does not say what it was trained on."""
    plain = [str(trained / "plain"), *arguments(trained)[1:]]
    assert evaluate.main(plain) == 2
    assert "--image-shape" in capsys.readouterr().err
    assert evaluate.main([*plain, "--image-shape=3,32,32"]) == 0
    assert 0 < figures(capsys)["accuracy"] < 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data-val=nowhere.rec"], "nowhere.rec is missing"),
        (["--data-val=s3://x/y.rec"], "S3"),
        (["--scales=20"], "--scales: 20 is less than the network's input, 32x32"),
        (["--batch-size=4", "--cpus=3"], "can't be divided among 3 devices"),
        (["--gpus=7"], "GPU 7"),
        (["--gpus=0,0"], "names a GPU twice"),
        (["--image-shape=1,2"], "must be 3,height,width, not '1,2'"),
        (["--scales=a"], "must be short sides as in 256,288,320, not 'a'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(trained, capsys, more, says):
    capsys.readouterr()
    try:
        code = evaluate.main(arguments(trained, *more))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert says in error and error.count("\n") == 1


def test_a_label_that_the_network_has_no_class_for(trained, tmp_path, capsys):
    write_records(tmp_path / "val.rec", [(7, encode_png(pictures()[0]))], 1)
    assert evaluate.main(arguments(trained, "--data-val", str(tmp_path / "val.rec"))) == 2
    assert "label 7 is outside 0 to 6" in capsys.readouterr().err


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 100), st.data())
def test_scores_do_not_depend_on_how_images_are_divided(labels, seed, data):
    outputs = np.random.RandomState(seed).dirichlet(np.ones(7), len(labels)).astype("f4")
    labels = np.array(labels, "f4")
    at_once, divided = scores.Scores(7), scores.Scores(7)
    at_once.add(outputs, labels)
    cuts = data.draw(st.lists(st.integers(0, len(labels)), max_size=5))
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(labels)]):
        divided.add(outputs[start:end], labels[start:end])
    assert np.array_equal(at_once.confusion, divided.confusion)
    assert dict(divided.values()) == pytest.approx(dict(at_once.values()), rel=1e-12)
    # MXNet's own metrics agree.
    metric = scores.new_metric(7)
    metric.update([mx.nd.array(labels)], [mx.nd.array(outputs)])
    assert dict(at_once.values()) == pytest.approx(dict(metric.get_name_value()), rel=1e-5)


def test_a_network_that_has_diverged_is_never_right():
    of_six = scores.Scores(6)
    of_six.add(np.full((4, 6), np.nan, "f4"), np.array([1, 2, 3, 4], "f4"))
    values = dict(of_six.values())
    assert values["accuracy"] == values["top_k_accuracy_5"] == 0
    assert np.isnan(values["cross-entropy"])
