"""Readings, positions and speeds of clips, compared with what the clips were made from."""
import pytest
import torch

from course_lib.lab.data.digit_clips import moving_digits
from course_lib.lab.evaluation.clips import identity_loss, positions, read_digits, speeds


@pytest.fixture(scope="module")
def clips():
    return moving_digits(60, frames=6, seed=0, split="test")


def test_digits_that_nobody_trained_on_are_read(clips):
    """The ceiling of generated clips: 99.9 % of 8,000 frames; here of 360."""
    digits = read_digits(clips.x)
    assert digits.shape == (60, 6) and digits.dtype == torch.int64
    assert (digits == clips.y[:, None]).float().mean() > 0.97
    assert identity_loss(digits).max() < 0.05


def test_a_digit_moved_by_whole_pixels_is_read_alike(clips):
    x = torch.full((20, 2, 1, 40, 40), -1.0)
    x[:, 0, :, 2:34, 3:35] = clips.x[:20, 0]
    x[:, 1, :, 7:39, 1:33] = clips.x[:20, 0]
    digits = read_digits(x)
    assert torch.equal(digits[:, 0], digits[:, 1])
    moved = positions(x).diff(dim=1)[:, 0]
    torch.testing.assert_close(moved, torch.tensor([[-2.0, 5.0]]).expand(20, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(speeds(x)[:, 0], torch.full((20,), 29**0.5), atol=1e-4, rtol=0)


def test_positions_and_speeds_are_those_of_the_clip(clips):
    error = positions(clips.x) - clips.position
    assert error.square().mean().sqrt() < 0.04 and error.abs().max() < 0.4
    speed = clips.position.diff(dim=1).norm(dim=-1)
    assert speeds(clips.x).shape == (60, 5) and (speeds(clips.x) - speed).abs().max() < 0.4


def test_a_black_that_is_not_quite_black_moves_no_position(clips):
    """3 % of grey everywhere would move the centre by more than a pixel."""
    grey = clips.x.clamp(min=-0.94)
    assert (positions(grey) - clips.position).abs().max() < 0.4
    assert torch.equal(read_digits(grey[:10]), read_digits(clips.x[:10]))


def test_frames_without_ink_have_no_digit_and_no_position(clips):
    x = clips.x[:3].clone()
    x[1, 2] = -1
    digits = read_digits(x)
    assert digits[1, 2] == -1 and (digits >= 0).sum() == 3 * 6 - 1
    assert positions(x)[1, 2].isnan().all() and positions(x).isnan().sum() == 2
    assert speeds(x).isnan().sum() == 2                     # to the empty frame, and from it


def test_identity_loss_by_hand():
    digits = torch.tensor([[3, 3, 5, 3], [7, 1, 7, -1], [-1, -1, 2, 2], [4, 4, 4, 4]])
    assert identity_loss(digits).tolist() == [0.25, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("call, words", [
    (lambda x: read_digits(x[:, 0]), r"clips are \(n, F, 1, H, W\)"),
    (lambda x: positions(x.expand(-1, -1, 3, -1, -1)), r"clips are \(n, F, 1, H, W\)"),
    (lambda x: positions(127.5 * (x + 1)), r"clips must lie in \[-1, 1\]"),
    (lambda x: speeds(((x + 1) * 127.5).byte()), "clips must be floating point"),
    (lambda x: read_digits(x * torch.nan), "not finite"),
    (lambda x: identity_loss(x[:, :, 0, 0, 0]), "digits are whole numbers"),
    (lambda x: identity_loss(torch.zeros(4).long()), "digits are whole numbers"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words, clips):
    with pytest.raises((TypeError, ValueError), match=words):
        call(clips.x[:2])
