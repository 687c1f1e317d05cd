"""data/mixing: what is mixed is what the papers say, and follows from the batch's seed."""

import mxnet as mx
import numpy as np
import pytest

from data.iterators import SyntheticIter
from data.mixing import (
    Mixing,
    MixingIter,
    Mixture,
    erase,
    main_labels,
    mix_images,
    mix_labels,
)

IMAGES = np.arange(4 * 3 * 6 * 8, dtype=np.float32).reshape(4, 3, 6, 8)
PARTNERS = np.array([2, 0, 1, 3])


def mixed(mixture):
    return mix_images(mx.nd.array(IMAGES), mixture).asnumpy()


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_gradient_is_p_minus_label(smoothing):
    logits = mx.nd.array(np.random.RandomState(0).randn(4, 10))
    labels = mix_labels(np.array([3.0, 1, 0, 9]), Mixture(PARTNERS, 0.7), 10, smoothing)
    logits.attach_grad()
    with mx.autograd.record():
        p = mx.nd.SoftmaxOutput(logits, mx.nd.array(labels))
    p.backward()
    np.testing.assert_array_equal(logits.grad.asnumpy(), p.asnumpy() - labels)


def test_unmixed_labels_are_those_of_softmax_output():
    logits = mx.nd.array(np.random.RandomState(0).randn(4, 10))
    own = np.array([3.0, 1, 0, 9])
    gradients = []
    for label in (own, mix_labels(own, Mixture(PARTNERS, 1), 10, smoothing=0.1)):
        logits.attach_grad()
        with mx.autograd.record():
            mx.nd.SoftmaxOutput(logits, mx.nd.array(label), smooth_alpha=0.1).backward()
        gradients.append(logits.grad.asnumpy())
    np.testing.assert_allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("classes", [1, 2, 10])
@pytest.mark.parametrize("smoothing", [0, 0.3])
def test_labels_sum_to_one(classes, smoothing):
    if classes == 1 and smoothing:
        return  # there is no other class
    labels = mix_labels(np.zeros(4), Mixture(PARTNERS, 0.37), classes, smoothing)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


def test_labels_are_mixed_as_the_images():
    own = np.array([5.0, 6, 7, 8])
    expected = np.zeros((4, 10))
    expected[range(4), [5, 6, 7, 8]] = 0.75
    expected[range(4), [7, 5, 6, 8]] += 0.25
    np.testing.assert_allclose(mix_labels(own, Mixture(PARTNERS, 0.75), 10), expected)
    assert main_labels(own, Mixture(PARTNERS, 0.75)).tolist() == [5, 6, 7, 8]
    assert main_labels(own, Mixture(PARTNERS, 0.25)).tolist() == [7, 5, 6, 8]


def test_mixup_adds_shares_of_two_images():
    np.testing.assert_allclose(
        mixed(Mixture(PARTNERS, 0.75)), 0.75 * IMAGES + 0.25 * IMAGES[PARTNERS], rtol=1e-6
    )


def test_cutmix_pastes_a_box_of_the_partner():
    expected = IMAGES.copy()
    expected[:, :, 1:4, 2:7] = IMAGES[PARTNERS][:, :, 1:4, 2:7]
    np.testing.assert_array_equal(mixed(Mixture(PARTNERS, 0.7, (1, 2, 4, 7))), expected)


@pytest.mark.parametrize("box", [None, (2, 2, 2, 2), (0, 3, 6, 3)])
def test_a_share_of_one_changes_nothing(box):
    mixture = Mixture(PARTNERS, 1, box)
    np.testing.assert_array_equal(mixed(mixture), IMAGES)
    labels = mix_labels(np.array([1.0, 2, 0, 1]), mixture, 3)
    assert labels.argmax(axis=1).tolist() == [1, 2, 0, 1]
    assert labels.max(axis=1).tolist() == [1, 1, 1, 1]


def test_what_is_drawn():
    both = Mixing(mixup=0.4, cutmix=1.0)
    drawn = [both.draw(seed, 16, 20, 30) for seed in range(2000)]
    boxes = [each for each in drawn if each.box]
    # One of them per batch, with equal chances.
    assert 900 < len(boxes) < 1100
    for each in drawn:
        assert sorted(each.partners) == list(range(16))
    for each in boxes:
        top, left, bottom, right = each.box
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 30
        assert each.share == 1 - (bottom - top) * (right - left) / 600
    # The larger share of Beta(0.4, 0.4); the mean of 4 million draws is 0.840.
    shares = [each.share for each in drawn if not each.box]
    assert min(shares) >= 0.5
    assert np.mean(shares) == pytest.approx(0.840, abs=0.012)
    only = [Mixing(mixup=1).draw(seed, 4, 8, 8) for seed in range(20)]
    assert not any(each.box for each in only)
    assert all(Mixing(cutmix=1).draw(seed, 4, 8, 8).box for seed in range(20))


def test_erased_boxes():
    images = mx.nd.full((64, 3, 40, 40), -99)
    erased = erase(images, 3, 0.5, mean=(10, 20, 30), std=(2, 2, 4)).asnumpy()
    changed = (erased != -99).all(axis=1)
    of_image = changed.any(axis=(1, 2))
    assert 20 < of_image.sum() < 44
    for mask in changed[of_image]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # A box, and nothing around it.
        assert mask.sum() == len(rows) * len(columns)
        assert 0.01 < mask.mean() < 0.45
    noise = erased.transpose(1, 0, 2, 3)[:, changed]
    assert noise.min(axis=1).tolist() == [-5, -10, -7.5]
    assert noise.max(axis=1).tolist() == [122.5, 117.5, 56.25]
    np.testing.assert_array_equal(erase(images, 3, 0, (0, 0, 0), (1, 1, 1)).asnumpy(), -99)


def batches(mixing, number, smoothing=0.1):
    mx.random.seed(0)
    images = SyntheticIter(8, (3, 16, 16), 10, number)
    return list(MixingIter(images, mixing, 10, smoothing)) if mixing else list(images)


def test_batches_follow_from_their_seed():
    plain = batches(None, 3)
    again = [batches(Mixing(mixup=1, cutmix=1, erasing=0.5), 3) for _ in range(2)]
    for own, one, two in zip(plain, *again):
        assert (one.epoch, one.number, one.seed, one.pad) == (own.epoch, own.number, own.seed, 0)
        np.testing.assert_array_equal(one.data[0].asnumpy(), two.data[0].asnumpy())
        np.testing.assert_array_equal(one.label[0].asnumpy(), two.label[0].asnumpy())
        assert one.label[0].shape == (8, 10)
        assert not np.array_equal(one.data[0].asnumpy(), own.data[0].asnumpy())
    labels = [batch.label[0].asnumpy() for batch in again[0]]
    assert not np.array_equal(labels[0], labels[1])


def test_main_labels_are_the_largest():
    for batch in batches(Mixing(mixup=1, cutmix=1), 8):
        labels, main = batch.label[0].asnumpy(), batch.main_labels[0].asnumpy().astype(int)
        np.testing.assert_allclose(labels[range(8), main], labels.max(axis=1))


def test_erasing_alone_leaves_the_labels():
    (plain,), (erased,) = batches(None, 1), batches(Mixing(erasing=1), 1)
    np.testing.assert_array_equal(erased.label[0].asnumpy(), plain.label[0].asnumpy())
    assert not hasattr(erased, "main_labels")
