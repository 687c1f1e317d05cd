"""model.network.params: parameters that fit a network."""

import pytest

import symbol_xception
from model import ModelError
from model.network.params import check_params
from model.training.module import numpy_params
from tests.model.training.modules import bound, small_symbol
from tests.networks import THINNEST


def test_parameters_of_another_network_name_the_first_difference(tmp_path):
    params = numpy_params(*bound().get_params())
    other = symbol_xception.get_xception_symbol(7, filter_list=THINNEST)
    with pytest.raises(ModelError, match=r"f: arg:fc1_weight .*\(5, 10\).*\(7, 10\)"):
        check_params(params, other, "f")
    missing = {k: v for k, v in params.items() if k != "aux:Exit_flow_b5_conv1_bn_moving_var"}
    with pytest.raises(ModelError, match="aux:Exit_flow_b5_conv1_bn_moving_var is missing"):
        check_params(missing, small_symbol(), "f")
    with pytest.raises(ModelError, match="arg:more is not in this network"):
        check_params({**params, "arg:more": params["arg:fc1_bias"]}, small_symbol(), "f")
