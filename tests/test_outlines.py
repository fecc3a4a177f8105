"""Outlines and how well two of them agree."""
import pytest
import torch

from course_lib.lab.data.noun_parts import draw_parts, render
from course_lib.lab.data.outlines import outline, outline_f1


def square(size=8, low=2, high=6):
    x = -torch.ones(1, 3, size, size)
    x[..., low:high, low:high] = 1
    return x


def test_the_outline_of_a_square():
    found = outline(square())[0, 0]
    wanted = torch.zeros(8, 8)
    wanted[2:6, 1] = wanted[2:6, 5] = 1                     # left of a change to the right
    wanted[1, 2:6] = wanted[5, 2:6] = 1                     # above a change below
    assert torch.equal(found, wanted)


def test_flat_pictures_have_none_and_small_changes_do_not_count():
    assert outline(torch.zeros(1, 3, 4, 4)).sum() == 0
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1, :, 2:] = 0.2                                    # one channel, below the limit
    assert outline(x).sum() == 0 and outline(x, 0.1).sum() == 4


def test_real_figures_have_some():
    x = render(draw_parts(8, seed=0))
    share = outline(x).mean((1, 2, 3))
    assert ((share > 0.1) & (share < 0.6)).all()


def test_f1_by_hand():
    a, b = torch.zeros(1, 1, 5, 9), torch.zeros(1, 1, 5, 9)
    a[..., 2, 1:5] = 1                                      # four points
    b[..., 3, 3:9] = 1                                      # one row lower, six points
    exact = outline_f1(a, b, tolerance=0)
    assert exact.item() == 0
    precision, recall = 3 / 4, 3 / 6                        # 2, 3, 4 of a; 3, 4, 5 of b
    wanted = 2 * precision * recall / (precision + recall)
    torch.testing.assert_close(outline_f1(a, b), torch.tensor([wanted]))
    torch.testing.assert_close(outline_f1(b, a), torch.tensor([wanted]))


def test_f1_of_equal_shifted_and_empty():
    x = outline(square())
    assert outline_f1(x, x).item() == 1
    assert outline_f1(x.roll(1, 3), x).item() == 1          # one pixel is tolerated
    assert outline_f1(x.roll(1, 3), x, tolerance=0).item() < 0.7
    none = torch.zeros_like(x)
    assert outline_f1(none, none).item() == 1 and outline_f1(none, x).item() == 0


def test_what_cannot_be_an_outline():
    with pytest.raises(ValueError, match="found"):
        outline_f1(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 5, 5))
    with pytest.raises(ValueError, match="change"):
        outline(square(), 3.0)
    with pytest.raises((TypeError, ValueError), match="pictures"):
        outline(torch.zeros(4, 4))
