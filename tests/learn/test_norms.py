"""Batch-norm statistics taken anew: those of the tiles that are given, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from raremap.learn.norms import natural_tiles, settle


def test_statistics_are_those_of_the_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.9))
    batches = [torch.randn(4, 2, 8, 8) * 5 + 1 for _ in range(3)]
    network.train()
    settle(network, batches)
    with torch.no_grad():
        through = [network[0](b) for b in batches]
    mean = np.mean([t.mean((0, 2, 3)).numpy() for t in through], axis=0)
    variance = np.mean([t.var((0, 2, 3), unbiased=True).numpy() for t in through], axis=0)
    assert network[1].running_mean.numpy() == pytest.approx(mean, rel=1e-5)
    assert network[1].running_var.numpy() == pytest.approx(variance, rel=1e-5)
    assert network[1].momentum == 0.1
    assert network.training
    assert network[2].training


def test_parameters_stay_and_a_network_without_batch_norm_is_left_alone():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.GroupNorm(1, 3)).eval()
    before = copy.deepcopy(network.state_dict())
    settle(network, [torch.randn(1, 2, 4, 4)])
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not network.training
    normed = nn.Sequential(nn.BatchNorm2d(2))
    settle(normed, [])
    assert normed[0].num_batches_tracked == 0


def test_natural_tiles_are_some_of_the_rows_and_the_same_each_time():
    rows = np.arange(100, 150)
    chosen = natural_tiles(rows, 16, seed=1)
    assert len(set(chosen.tolist()) & set(rows.tolist())) == 16
    assert np.array_equal(chosen, natural_tiles(rows, 16, seed=1))
    assert len(natural_tiles(rows[:3], 16, seed=1)) == 3
