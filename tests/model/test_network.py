"""model/network: what is recognised in a symbol."""

import json

import mxnet as mx
import pytest

from model import ModelError
from model.network.layers import architecture, is_xception
from model.network.params import check_image_shape
from model.training.finetune import frozen_params, training_symbol
from symbol_xception import get_xception_symbol

SMALL = (4, 6, 8, 10, 12, 14, 16)


@pytest.mark.parametrize("padding", ["half", "keras", "torch"])
@pytest.mark.parametrize("features", [False, True])
def test_architecture_is_what_the_symbol_was_made_with(padding, features):
    arguments = {"filter_list": SMALL, "padding": padding, "bn_eps": 1e-5}
    symbol = get_xception_symbol(7, features=features, **arguments)
    assert architecture(symbol) == {**arguments, "num_classes": None if features else 7}


def test_a_network_is_recognised_whatever_it_was_trained_with():
    symbol = get_xception_symbol(7, SMALL, dropout=0.7, bn_mom=0.5, bn_eps=0.01, workspace=3)
    assert is_xception(symbol)
    assert is_xception(training_symbol(symbol, frozen_params(symbol, "entry"), 3, 0.1, True))
    for other in (
        get_xception_symbol(7, SMALL, dtype="float16"),
        symbol.get_internals()["fc1_output"],
        symbol.get_internals()["Exit_flow_b5_add_output"],
    ):
        assert not is_xception(other)
    for before, after in (
        ('"fix_gamma": "False"', '"fix_gamma": "True"'),
        ('"pool_type": "avg"', '"pool_type": "max"'),
        ('"act_type": "relu"', '"act_type": "tanh"'),
    ):
        assert not is_xception(mx.sym.load_json(symbol.tojson().replace(before, after)))


@pytest.mark.parametrize(
    ("layer", "attribute", "value"),
    [
        ("Entry_flow_b1_conv2_conv2d", "num_filter", "3"),
        ("Entry_flow_b2_conv1_conv2d", "num_filter", "-1"),
        ("Entry_flow_b1_conv1_bn", "eps", "0"),
        ("Entry_flow_b1_conv1_bn", "eps", "nan"),
        ("Entry_flow_b1_conv1_bn", "eps", "inf"),
    ],
)
def test_a_network_that_cannot_be_made_is_another_one(layer, attribute, value):
    graph = json.loads(get_xception_symbol(7, SMALL).tojson())
    (node,) = (node for node in graph["nodes"] if node["name"] == layer)
    node["attrs"][attribute] = value
    symbol = mx.sym.load_json(json.dumps(graph))
    assert not is_xception(symbol)
    with pytest.raises(ModelError, match=r"^not this script's network: it has layers of its names"):
        architecture(symbol)


def test_images_that_are_too_small():
    check_image_shape(get_xception_symbol(7, SMALL, padding="torch"), (3, 7, 7))
    with pytest.raises(ModelError, match=r"^images of 6x9 pixels are too small for this network$"):
        check_image_shape(get_xception_symbol(7, SMALL, padding="torch"), (3, 6, 9))
