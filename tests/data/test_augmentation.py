"""Every flag of the augmentation changes the pixels as its name says."""

import cv2
import mxnet as mx
import numpy as np
import pytest

from data.formats.recordset import scan
from data.inspect import Images, check_sample
from model.checkpoint import Place
from model.job.cluster import Cluster
from model.plan import Plan
from model.training.batches import training_iter
from model.training.origin import origin_of

COUNT, HEIGHT, WIDTH, SIZE = 12, 60, 90, 48


def smooth_image(height, width) -> np.ndarray:
    """Red rises from left to right, green from top to bottom, blue is constant: a pixel tells where
    it was."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [55 + 2 * columns * 90 / width, 55 + 2 * rows * 60 / height, np.full_like(rows, 90)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def records(path, image):
    writer = mx.recordio.MXRecordIO(str(path), "w")
    content = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    for i in range(COUNT):
        writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, 0, i, 0), content))
    writer.close()
    return path


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    return records(tmp_path_factory.mktemp("augmentation") / "x.rec", smooth_image(HEIGHT, WIDTH))


# No scale, no aspect ratio, no colour: what remains is what a test asks for.
PLAIN = (
    "--data-type=custom --aug-level=1 --batch-size=12 --random-crop=0 --random-mirror=0 "
    f"--rgb-mean=0 --rgb-std=1 --image-shape=3,{SIZE},{SIZE} "
)


def images_of(rec, flags):
    """What training gets, (N, height, width, 3) in float64."""
    # At level 2, what --random-resized-crop can't be had with is not to be named.
    level = PLAIN.replace("--random-crop=0 ", "").replace("level=1", "level=2")
    level += "--max-random-h=0 --max-random-s=0 --max-random-l=0 "
    plain = level if "resized" in flags else PLAIN
    plan = Plan.of((plain + flags).split())
    sides = check_sample(scan(rec))
    images = Images(str(rec), None, COUNT, 0, 1, None, sides, None)
    batch = training_iter(plan, origin_of(plan, None), images, Place(0), 1, Cluster(), 1).next()
    return batch.data[0].asnumpy().transpose(0, 2, 3, 1).astype(float)


def plane(image, channel):
    """(Rise by column, by row, largest distance from it) of the plane that fits a channel."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    system = np.stack([columns.ravel(), rows.ravel(), np.ones(SIZE * SIZE)], axis=1)
    values = image[:, :, channel].ravel()
    (right, down, _), *_ = np.linalg.lstsq(system, values, rcond=None)
    return (
        right,
        down,
        np.abs(system @ np.linalg.lstsq(system, values, rcond=None)[0] - values).max(),
    )


def test_without_any_it_is_the_middle(rec):
    top, left = (HEIGHT - SIZE) // 2, (WIDTH - SIZE) // 2
    middle = smooth_image(HEIGHT, WIDTH)[top : top + SIZE, left : left + SIZE]
    assert (images_of(rec, "") == middle).all()


def test_places_and_mirrors(rec):
    places = images_of(rec, "--random-crop=1")[:, 0, 0]
    assert len({tuple(place) for place in places}) > COUNT / 2
    assert (places[:, 0] % 2 == 1).all() and places[:, 0].min() < 97 < places[:, 0].max()
    rises = {round(plane(image, 0)[0]) for image in images_of(rec, "--random-mirror=1")}
    assert rises == {2, -2}
    padded = images_of(rec, "--random-crop=1 --pad-size=40 --fill-value=7")
    assert any((image[0, 0] == 7).all() for image in padded)


def test_geometry(rec):
    """Slopes of the planes tell the scale, the ratio, the turn and the shear."""
    middle = slice(16, 32)

    def slopes(flags):
        cut = images_of(rec, flags)[:, middle, middle]
        red, green = cut[..., 0], cut[..., 1]
        return np.array(
            [
                [each[:, :, 1:].mean() - each[:, :, :-1].mean() for each in (a[None], b[None])]
                + [each[:, 1:].mean() - each[:, :-1].mean() for each in (a[None], b[None])]
                for a, b in zip(red, green)
            ]
        )

    plain = slopes("")
    assert plain[0] == pytest.approx([2, 0, 0, 2], abs=0.01)
    larger = slopes("--max-random-scale=2")
    assert larger[:, 0] == pytest.approx(larger[:, 3], rel=0.1)
    assert 0.9 < larger[:, 0].min() < 1.3 < 1.6 < larger[:, 0].max() < 2.1
    smaller = slopes("--min-random-scale=0.5")
    assert smaller[:, 0].min() > 1.9 and smaller[:, 0].max() > 2.3
    wider = slopes("--max-random-aspect-ratio=0.5")
    assert (wider[:, 0] - wider[:, 3]).min() < -0.3 and (wider[:, 0] - wider[:, 3]).max() > 0.3
    flatter = slopes("--min-random-aspect-ratio=0.4 --max-random-aspect-ratio=0.6")
    # Of height to width: the picture is wider, and rises less from left to right.
    assert (flatter[:, 3] > 1.3 * flatter[:, 0]).all()
    turned = slopes("--max-random-rotate-angle=30")
    assert turned[:, 1] == pytest.approx(-turned[:, 2], abs=0.1)
    assert turned[:, 1].min() < -0.3 and turned[:, 1].max() > 0.3
    sheared = slopes("--max-random-shear-ratio=0.5")
    assert np.abs(sheared[:, [1, 2]]).max(axis=0).min() < 0.1 < np.abs(sheared[:, [1, 2]]).max()


def test_colours(rec):
    plain = images_of(rec, "")[0]

    def hls(image):
        pixels = cv2.cvtColor(image.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2HLS).astype(int)
        return pixels[16:32, 16:32].reshape(-1, 3).mean(axis=0)

    for flag, own in (("h", 0), ("l", 1), ("s", 2)):
        changes = np.array([hls(image) for image in images_of(rec, f"--max-random-{flag}=20")])
        changes = np.abs(changes - hls(plain)).max(axis=0)
        assert 5 < changes[own] < 22, flag
        # Of HLS in whole numbers, saturation is the coarsest.
        assert all(change < 4 for i, change in enumerate(changes) if i != own), (flag, changes)
    ratios = (images_of(rec, "--brightness=0.2") / plain).mean(axis=(1, 2, 3))
    assert 0.79 < ratios.min() < 0.9 and 1.1 < ratios.max() < 1.21
    spread = images_of(rec, "--contrast=0.4")[..., 0].std(axis=(1, 2)) / plain[..., 0].std()
    assert 0.59 < spread.min() < 0.9 and 1.1 < spread.max() < 1.41
    colour = images_of(rec, "--saturation=0.4")
    apart = (colour[..., 0] - colour[..., 2]).mean(axis=(1, 2))
    apart /= (plain[..., 0] - plain[..., 2]).mean()
    assert 0.59 < apart.min() < 0.9 and 1.1 < apart.max() < 1.41
    noise = (images_of(rec, "--pca-noise=0.1") - plain).mean(axis=(1, 2))
    assert 1 < noise.std() < 20
    assert (images_of(rec, "--pca-noise=0.1") - plain - noise[:, None, None]).std() < 1


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (SIZE, SIZE), (SIZE, WIDTH)])
@pytest.mark.parametrize(
    "flags",
    [
        "--random-resized-crop=1 --min-random-area=0.2 --max-random-aspect-ratio=0.25",
        "--min-crop-size=24 --max-crop-size=44 --random-crop=1",
    ],
)
def test_what_is_cut_out_and_resized_is_whole(tmp_path, shape, flags):
    """Planes stay planes, also where MXNet would resize an image into itself (48x48)."""
    images = images_of(records(tmp_path / "x.rec", smooth_image(*shape)), flags)
    slopes = np.array([[plane(image, 0), plane(image, 1)] for image in images])
    assert slopes[:, :, 2].max() < 6
    zoom = slopes[:, 0, 0] / (180 / shape[1])
    assert zoom.max() > 1.3 * zoom.min() and zoom.min() > 0.3
    squares = slopes[:, 1, 1] * shape[0] / 120 / zoom
    assert (np.ptp(squares) > 0.05) == ("aspect" in flags)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--min-random-area=0.5", "need --random-resized-crop 1"),
        ("--max-crop-size=40", "give both"),
        ("--random-resized-crop=1 --pad-size=4", "--pad-size: not with"),
        ("--random-resized-crop=1 --random-crop=1", "give one of them"),
        ("--min-random-scale=2", "the smallest random scale is 2.0, above 1"),
        ("--fill-value=3", "no border is added"),
        ("--random-crop=2", "must be 0 or 1"),
        ("--max-random-aspect-ratio=1.5", "must be below 1"),
    ],
)
def test_what_would_do_nothing_is_one_line(capsys, flags, says):
    with pytest.raises(SystemExit) as stop:
        Plan.of((PLAIN + flags).split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("\n") == 1


def test_a_flag_takes_the_place_of_its_level():
    def drawn(text):
        plan = Plan.of(text.split())
        return plan.augmentation.arguments(plan.level, plan.data.image_shape, 480)

    level = drawn("--aug-level=2")
    assert drawn("--aug-level=2 --max-random-h=0 --brightness=0.4") == {
        **level, "random_h": 0, "brightness": 0.4
    }  # fmt: skip
    cropped = drawn("--aug-level=2 --random-resized-crop=1")
    assert "max_random_scale" not in cropped and "resize" not in cropped
