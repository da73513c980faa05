"""Lanes by what a window takes; truth is memory that a network was told to take."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tests.maps.test_stream import gather, position_in_window, scene

from raremap.maps import lanes
from raremap.maps.average import Voice, averaged
from raremap.maps.options import PredictOptions
from raremap.scene.raster import open_image


class Greedy:
    """A network that holds so many bytes while it is asked."""

    def __init__(self, taken: int, threads: int = 16) -> None:
        self.taken, self.threads, self.lanes, self.asked = taken, threads, threads, []

    def share(self, lanes: int) -> None:
        self.lanes = lanes

    def enter_lane(self) -> None:
        pass

    def __call__(self, image, valid):
        self.asked.append(bool(valid.any()))
        if not valid.any():
            held = np.ones(self.taken, np.uint8)
            time.sleep(0.03)
            del held
        return position_in_window(image, valid)


@pytest.mark.parametrize(
    ("mib", "threads", "expected"),
    [(1, 16, 16), (75, 16, 4), (75, 4, 4), (180, 16, 2), (180, 1, 1), (500, 16, 1)],
)
def test_as_many_windows_at_once_as_have_room(tmp_path, mib, threads, expected) -> None:
    _, path = scene(tmp_path, 100, 333)
    network = Greedy(mib << 20, threads)
    options = PredictOptions(window=64, overlap=0.5, batch=2)
    with open_image(path) as reader:
        found, _ = gather(reader, network, options)
        one, _ = gather(reader, position_in_window, options)
        assert network.lanes == expected
        assert lanes.told(network) == {"lanes": expected, "threads": threads // expected}
        assert network.asked.count(False) == (threads > 1)
        gather(reader, network, options)
        assert network.asked.count(False) == (threads > 1)  # known by now
    assert np.array_equal(found, one)


def test_a_scene_of_one_batch_is_not_tried(tmp_path) -> None:
    _, path = scene(tmp_path, 60, 50)
    network = Greedy(1 << 20)
    with open_image(path) as reader:
        gather(reader, network, PredictOptions(window=64))
    assert network.asked == [True]


def test_an_average_shares_what_all_its_voices_take() -> None:
    voices = [Greedy(0, 8), Greedy(0, 4)]
    network = averaged([Voice(v) for v in voices], ["a"], PredictOptions())
    assert isinstance(network, lanes.SharingNetwork)
    assert (network.threads, network.lanes) == (4, 4)
    network.share(2)
    assert [v.lanes for v in voices] == [2, 2]
    assert lanes.told(network) == {"lanes": 2, "threads": 2}


def test_memory_is_counted_also_where_the_same_was_free_before() -> None:
    def step() -> None:
        held = [np.ones(1 << 16, np.uint8) for _ in range(512)]  # 32 MiB in pieces that the C library keeps
        time.sleep(0.02)
        del held

    first, second = lanes.peak(step), lanes.peak(step)
    assert first is not None
    assert second is not None
    assert min(first, second) > 30 << 20
    assert max(first, second) < 40 << 20


def test_where_the_system_does_not_tell_nothing_changes(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(lanes, "_resident", lambda: None)
    network = Greedy(1 << 20)
    lanes.share_by_room(network, lambda: network(np.zeros((1, 1, 4, 4)), np.zeros((1, 4, 4), bool)), 1)
    assert network.lanes == 16
