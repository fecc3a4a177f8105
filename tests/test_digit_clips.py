"""Moving digits: where each clip's digit is, that it is never cut, and how it bounces."""
import numpy as np
import pytest
import torch
from scipy import ndimage

from course_lib.lab import data
from course_lib.lab.data import digit_clips as module
from course_lib.lab.data.digit_clips import _bounce, _centre_of_mass, _window, moving_digits


@pytest.fixture(scope="module")
def clips():
    return moving_digits(300, frames=12, seed=0, split="test")


@pytest.fixture(scope="module")
def three():
    """Three digits of each split, with labels."""
    return {split: tuple(part[:3] for part in data.mnist(split)) for split in ("train", "test")}


@pytest.fixture
def few(three, monkeypatch):
    """Those instead of all."""
    monkeypatch.setattr(module, "mnist", three.get)
    return three


def test_shapes_and_range(clips):
    assert clips.x.shape == (300, 12, 1, 32, 32) and clips.position.shape == (300, 12, 2)
    assert clips.velocity.shape == (300, 2) and clips.y.shape == (300,)
    assert clips.x.dtype == clips.position.dtype == clips.velocity.dtype == torch.float32
    assert -1 <= clips.x.min() < -0.99 and 0.99 < clips.x.max() <= 1
    assert clips.y.dtype == torch.int64 and len(clips.y.unique()) == 10


def test_the_same_seed_the_same_clips_and_fewer_or_shorter_ones_are_their_beginning(few):
    many = moving_digits(40, frames=16, seed=3)
    part = moving_digits(10, frames=8, seed=3)
    assert torch.equal(part.x, many.x[:10, :8]) and torch.equal(part.y, many.y[:10])
    assert torch.equal(part.position, many.position[:10, :8])
    assert torch.equal(part.velocity, many.velocity[:10])
    assert not torch.equal(part.velocity, moving_digits(10, seed=4).velocity)
    assert not torch.equal(part.velocity, moving_digits(10, seed=3, split="test").velocity)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [32, 45])
def test_each_frame_is_a_digit_of_its_split_moved_as_scipy_moves_it(few, split, size):
    images, labels = few[split]
    clips = moving_digits(12, frames=6, seed=1, split=split, size=size)
    seen = set()
    for x, y, position in zip(clips.x[:, :, 0], clips.y, clips.position):
        ink = ((images[labels == y][0, 0] + 1) / 2).double().numpy()
        seen.add(int(y))
        canvas = np.zeros((size, size))
        canvas[:28, :28] = ink
        row, column = ndimage.center_of_mass(ink)
        for frame, (to_x, to_y) in zip(x, position.double().tolist()):
            moved = ndimage.shift(canvas, (to_y - row, to_x - column), order=1, prefilter=False)
            np.testing.assert_allclose((frame.numpy() + 1) / 2, moved, atol=1e-4)
    assert seen == set(labels.tolist())


def test_no_digit_is_cut_and_its_centre_of_mass_is_its_position(clips):
    ink = (clips.x[:, :, 0].double() + 1) / 2
    mass = ink.sum((2, 3))
    torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), atol=1e-3, rtol=0)
    torch.testing.assert_close(_centre_of_mass(ink), clips.position.double(), atol=1e-4, rtol=0)


def test_digits_come_up_to_all_four_walls(clips):
    """Within a frame's shortest way, one pixel; a margin would keep all of them away."""
    inked = clips.x[:, :, 0] > -0.9
    columns, rows = inked.any(2).any(1).any(0), inked.any(3).any(1).any(0)
    assert columns[[0, -1]].all() and rows[[0, -1]].all()


def test_they_bounce_as_a_ball_does_that_is_moved_step_by_step():
    g = torch.Generator().manual_seed(0)
    low, high = torch.tensor([2.0, 5.0]).double(), torch.tensor([9.0, 11.0]).double()
    velocity = 12 * torch.rand(50, 2, generator=g).double() - 6
    at, v = low + torch.rand(50, 2, generator=g).double() * (high - low), velocity
    straight = at[:, None] + torch.arange(20)[:, None] * velocity[:, None]
    for found in _bounce(straight, low, high).unbind(1):
        torch.testing.assert_close(found, at)
        at = at + v
        while (outside := (at < low) | (at > high)).any():
            at = torch.where(at < low, 2 * low - at, torch.where(at > high, 2 * high - at, at))
            v = torch.where(outside, -v, v)


def test_between_walls_they_move_by_their_velocity(clips):
    step, speed = clips.position.diff(dim=1), clips.velocity.norm(dim=1)
    assert ((speed >= 1) & (speed <= 3)).all()
    free = (step.abs() - clips.velocity.abs()[:, None]).abs() < 1e-4
    assert (step.norm(dim=2) <= speed[:, None] + 1e-4).all() and 0.4 < free.all(2).float().mean()
    first = (step[:, 0] - clips.velocity).abs().amax(1) < 1e-4
    assert first.float().mean() > 0.6


def test_directions_and_speeds_are_uniform(few):
    """Kolmogorov and Smirnov's test, n = 2000: both p-values lie above 0.001."""
    from scipy.stats import kstest
    velocity = moving_digits(2000, frames=1, seed=0).velocity.double()
    angle = torch.atan2(velocity[:, 1], velocity[:, 0])
    assert kstest(angle, "uniform", (-np.pi, 2 * np.pi)).pvalue > 0.001
    assert kstest(velocity.norm(dim=1), "uniform", (1, 2)).pvalue > 0.001


def test_a_window_at_whole_pixels_is_a_copy_and_outside_is_black():
    ink = torch.rand(2, 3, 6, 7)
    found = _window(ink, torch.tensor([[[2.0, 1.0]] * 3, [[-1.0, 4.0]] * 3]), 4)
    assert torch.equal(found[0], ink[0, :, 1:5, 2:6])
    assert torch.equal(found[1, :, :2, 1:], ink[1, :, 4:, :3])
    assert (found[1, :, 2:] == 0).all() and (found[1, :, :, 0] == 0).all()


def test_an_image_without_ink_has_no_centre():
    assert _centre_of_mass(torch.zeros(1, 4, 4)).isnan().all()
    assert _centre_of_mass(torch.ones(4, 7)).tolist() == [3.0, 1.5]


@pytest.mark.parametrize("call, words", [
    (lambda: moving_digits(0), "n must be"),
    (lambda: moving_digits(1, frames=0), "frames must be"),
    (lambda: moving_digits(1, frames=2.0), "frames must be a whole number"),
    (lambda: moving_digits(1, seed=-1), "seed must be"),
    (lambda: moving_digits(1, split="valid"), "split must be one of train, test"),
    (lambda: moving_digits(1, size=16), "size must be a whole number, at least 24"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
