"""model.training.schedule: the learning rate of each update."""

import pytest

from model.training.schedule import Schedule


@pytest.mark.parametrize("first_epoch", [0, 2, 3])
def test_the_schedule_is_what_the_optimizer_gets(first_epoch):
    schedule = Schedule(lr=0.1, first_epoch=first_epoch, steps=(2, 3, 5), factor=0.1)
    batches = 7
    scheduler = schedule.scheduler(batches)
    for epoch in range(first_epoch, 7):
        for batch in range(batches):
            # MXNet counts the update before it asks for its rate.
            assert scheduler(epoch * batches + batch + 1) == pytest.approx(schedule.rate_at(epoch))


def test_the_schedule_of_the_2017_script():
    """`--retrain --model-load-epoch=50 --lr 0.001` runs at 0.001 and decays at 60, 80, 90, 110."""
    schedule = Schedule(0.001, 50, (20, 40, 60, 80, 90, 110), 0.1)
    rates = [schedule.rate_at(epoch) for epoch in (50, 59, 60, 79, 80, 90, 110, 124)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-7])
