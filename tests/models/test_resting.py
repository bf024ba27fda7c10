"""Frozen weights that are away from the device but for the time that somebody reads with them."""

import torch
from torch import nn

from clearppo.models.resting import Resting


def test_weights_are_on_the_device_only_while_somebody_reads() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval().requires_grad_(requires_grad=False)
    text = torch.randn(2, 3)
    expected, begun = net(text), net[0].weight.data_ptr()
    resting = Resting(net, torch.device("cpu"))
    away = net[0].weight.data_ptr()
    assert away != begun
    with resting.at_hand():
        here = net[0].weight.data_ptr()
        assert here != away
        with resting.at_hand():
            assert net[0].weight.data_ptr() == here
        assert net[0].weight.data_ptr() == here
        assert torch.equal(net(text), expected)
    assert net[0].weight.data_ptr() == away
    assert torch.equal(net(text), expected)


def test_what_another_shares_stays_where_it_is() -> None:
    own, shared = nn.Linear(2, 2), nn.Linear(2, 2)
    places = [layer.weight.data_ptr() for layer in (own, shared)]
    Resting(nn.Sequential(own, shared), torch.device("cpu"), but=shared.parameters())
    assert own.weight.data_ptr() != places[0]
    assert shared.weight.data_ptr() == places[1]


def test_an_error_puts_them_away_too() -> None:
    net = nn.Linear(2, 2)
    resting = Resting(net, torch.device("cpu"))
    away = net.weight.data_ptr()
    try:
        with resting.at_hand():
            raise ValueError
    except ValueError:
        assert net.weight.data_ptr() == away
