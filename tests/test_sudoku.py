"""Small Sudokus: how many there are, which are solved, and that a puzzle has one solution."""
import pytest
import torch

from course_lib.lab.data import sudoku
from course_lib.lab.data.sudoku import every_sudoku, is_sudoku, sudoku_puzzles, sudokus


def test_all_of_the_small_ones():
    """288 grids of 4 x 4; with boxes that are rows, the 12 Latin squares of order 3."""
    grids = every_sudoku()
    assert len(grids) == len(grids.unique(dim=0)) == 288 and is_sudoku(grids, 2, 2).all()
    assert len(every_sudoku(1, 3)) == 12
    with pytest.raises(ValueError, match="too many grids"):
        every_sudoku(2, 3)


@pytest.mark.parametrize("rows, columns", [(2, 2), (2, 3), (3, 2), (3, 3)])
def test_random_grids(rows, columns):
    N = rows * columns
    x = sudokus(20, 1, rows, columns)
    assert x.shape == (20, N * N) and is_sudoku(x, rows, columns).all()
    assert torch.equal(x, sudokus(20, 1, rows, columns))
    assert not torch.equal(x, sudokus(20, 2, rows, columns))
    assert len(x.unique(dim=0)) > 15
    square = x.view(20, N, N)
    for unit in (square, square.transpose(1, 2), square.unfold(1, rows, rows)
                 .unfold(2, columns, columns).reshape(20, N, N)):
        assert (unit.sort(2).values == torch.arange(N)).all()


def test_many_grids_are_the_found_ones_varied(monkeypatch):
    """All are right, the first are the same, and nearly every 4 x 4 grid appears about as often."""
    monkeypatch.setattr(sudoku, "FOUND", 30)
    few, many = sudokus(500, 1), sudokus(2000, 1)
    assert torch.equal(few, many[:500]) and is_sudoku(many).all()
    assert len(many.unique(dim=0)) > 1950 and not torch.equal(many, sudokus(2000, 2))
    assert is_sudoku(sudokus(300, 1, 3, 2), 3, 2).all()
    small = sudokus(28_800, 1, 2, 2)
    assert is_sudoku(small, 2, 2).all()
    found, counts = small[30:].unique(dim=0, return_counts=True)
    assert len(found) == 288 and counts.min() > 30 and counts.max() < 250


def test_one_wrong_number_is_seen():
    x = sudokus(10, 0)
    for place in range(36):
        wrong = x.clone()
        wrong[:, place] = (wrong[:, place] + 1) % 6
        assert not is_sudoku(wrong).any()
    assert not is_sudoku(torch.where(torch.arange(36) == 3, 6, x)).any()    # a mask
    # right rows and columns, wrong boxes: a cyclic square
    cyclic = (torch.arange(6)[:, None] + torch.arange(6)).remainder(6).view(1, 36)
    assert not is_sudoku(cyclic).any()


def test_a_puzzle_has_one_solution():
    grids, hidden = sudoku_puzzles(12, 20, seed=3)
    assert is_sudoku(grids).all() and (hidden.sum(1) == 20).all()
    for grid, places in zip(grids, hidden):
        puzzle = torch.where(places, -1, grid).tolist()
        assert list(sudoku._solutions(puzzle, 2, 3)) == [grid.tolist()]
    assert not (grids[:, None] == sudokus(12, 3)[None]).all(2).any()    # not those to train on
    again = sudoku_puzzles(12, 20, seed=3)
    assert torch.equal(again[0], grids) and torch.equal(again[1], hidden)


def test_bad_sizes():
    with pytest.raises(ValueError, match="at most 9"):
        sudokus(1, rows=3, columns=4)
    with pytest.raises(ValueError, match="hidden must be"):
        sudoku_puzzles(1, 37)
    with pytest.raises(ValueError, match="hide fewer"):     # and does not try for ever
        sudoku_puzzles(1, 14, rows=2, columns=2)
    with pytest.raises(ValueError, match=r"grids are \(n, 36\)"):
        is_sudoku(torch.zeros(2, 16))
    with pytest.raises((TypeError, ValueError), match="n must be"):
        sudokus(0)
