"""model.training.origin: what a run takes from the checkpoint that it resumes."""

from types import SimpleNamespace

from model.plan import Plan
from model.training.origin import origin_of
from symbol_xception import get_xception_symbol


def test_readers_are_those_of_the_checkpoint():
    """One for a checkpoint that is older than the flag: other batches would not resume it."""
    symbol_json = get_xception_symbol(10).tojson()
    pixels = {"rgb_mean": [0] * 3, "rgb_std": [1] * 3}
    new, given = Plan.of(["--retrain"]), Plan.of(["--retrain", "--data-readers", "5"])
    assert origin_of(new, None).readers == 2
    for saved, expected in (({}, 1), ({"data_readers": 3}, 3)):
        generation = SimpleNamespace(run={"settings": {**pixels, **saved}}, symbol_json=symbol_json)
        assert origin_of(new, generation).readers == expected
        assert origin_of(given, generation).readers == 5
