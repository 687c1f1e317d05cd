"""model.inference.equalizing: the same function, its channels alike."""

import mxnet as mx
import numpy as np

from model.inference.equalizing import equalized, links_of, ranges_of
from model.network.graph import Graph
from model.network.inference import inference_network
from symbol_xception import get_xception_symbol
from tests.networks import THIN, bind


def outputs(symbol, params, images):
    executor = symbol.simple_bind(mx.cpu(), data=images.shape, grad_req="null")
    executor.copy_params_from(params, {}, allow_extra_params=True)
    (probabilities,) = executor.forward(is_train=False, data=mx.nd.array(images))
    return probabilities.asnumpy()


def test_scaled_channels_compute_the_same():
    saved = get_xception_symbol(10, filter_list=THIN)
    random = bind(saved, (8, 3, 64, 64))
    weights = {name: random.arg_dict[name] for name in saved.list_arguments()[1:-1]}
    symbol, params, _ = inference_network(saved, weights, random.aux_dict)
    images = np.random.RandomState(0).uniform(0, 255, (8, 3, 64, 64)).astype("f4")
    calibration = mx.io.NDArrayIter(images, batch_size=4)
    alike = equalized(symbol, params, calibration)
    expected, found = (outputs(symbol, each, images) for each in (params, alike))
    assert np.abs(found - expected).max() < 1e-5
    # All depthwise layers, and the pointwise ones that a depthwise one reads through a relu.
    links = links_of(Graph.of(symbol))
    assert len(links) == 34 + 21
    names = [link.value.name for link in links]
    before, after = (ranges_of(symbol, each, names, calibration) for each in (params, alike))
    spread = [
        np.median([each.max() / np.median(each) for each in ranges.values()])
        for ranges in (before, after)
    ]
    assert spread[1] < 0.6 * spread[0]


def test_other_groups_and_shared_weights_are_left_alone():
    """Of these, channel c of the input is not channel c of the weights."""
    data, shared = mx.sym.var("data"), mx.sym.var("shared")

    def chain(first, second):
        layer = mx.sym.Convolution(data, kernel=(3, 3), num_filter=8, name="layer", **first)
        relu = mx.sym.Activation(layer, act_type="relu", name="relu")
        return mx.sym.Convolution(relu, kernel=(3, 3), num_filter=8, name="reader", **second)

    for first, second, links in (
        ({}, {"num_group": 8}, 1),
        ({"num_group": 8}, {}, 1),
        ({}, {"num_group": 4}, 0),
        ({"num_group": 4}, {"num_group": 8}, 0),
        ({"num_group": 8}, {"num_group": 4}, 0),
        ({"weight": shared}, {"num_group": 8, "weight": shared}, 0),
        ({}, {}, 0),
    ):
        assert len(links_of(Graph.of(chain(first, second)))) == links, (first, second)
