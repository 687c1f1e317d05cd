"""model/network: what is recognised in a symbol."""

import pytest

from model.network.layers import architecture
from symbol_xception import get_xception_symbol


@pytest.mark.parametrize("padding", ["half", "keras", "torch"])
@pytest.mark.parametrize("features", [False, True])
def test_architecture_is_what_the_symbol_was_made_with(padding, features):
    arguments = {"filter_list": (4, 6, 8, 10, 12, 14, 16), "padding": padding, "bn_eps": 1e-5}
    symbol = get_xception_symbol(7, features=features, **arguments)
    assert architecture(symbol) == {**arguments, "num_classes": None if features else 7}
