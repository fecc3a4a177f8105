"""Small Sudokus: grids of N x N numbers 0 ... N - 1, each once in a row, a column and a box.

Their tokens depend on each other strongly, and a machine can tell right from wrong. Boxes have
`rows` x `columns` places and N = rows * columns: 2 x 2 gives the 288 grids of 4 x 4, 2 x 3 one of
the 28 million of 6 x 6.
"""
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ... import validate

FOUND = 1000                                    # grids that are searched for; the others are varied


def sudokus(n: int, seed: int = 0, rows: int = 2, columns: int = 3) -> Tensor:
    """n random solved grids (n, N * N) int64, the same for the same seed.

    The first thousand are found by trying numbers in random order; the others are those with
    numbers renamed, and bands, stacks, rows and columns within them reordered. Not every grid is
    equally likely.
    Raises TypeError or ValueError for sizes that are no whole numbers, and N above 9.
    """
    n, N = validate.whole(n, "n"), _size(rows, columns)
    g = np.random.default_rng(validate.seed(seed))
    found = np.array([_random_grid(N, rows, columns, g) for _ in range(min(n, FOUND))])
    return torch.from_numpy(np.concatenate([found, _varied(found, n - len(found), seed, rows)]))


def every_sudoku(rows: int = 2, columns: int = 2) -> Tensor:
    """All solved grids of this size (n, N * N), 288 for 2 x 2. Raises ValueError for N above 4."""
    N = _size(rows, columns)
    if N > 4:
        raise ValueError(f"there are too many grids of {N} x {N} to list them")
    return torch.tensor(list(_solutions([-1] * N * N, rows, columns)))


def is_sudoku(x: Tensor, rows: int = 2, columns: int = 3) -> Tensor:
    """Whether each grid (n, N * N) is solved: (n,) bool. A mask or another number is wrong."""
    N = _size(rows, columns)
    x = validate.tensor(x, "x")
    if x.ndim != 2 or x.shape[1] != N * N:
        raise ValueError(f"grids are (n, {N * N}); got {tuple(x.shape)}")
    units = torch.tensor(_units(rows, columns), device=x.device)        # (3 N, N) places
    numbers = torch.arange(N, device=x.device)
    return (x[:, units].sort(2).values == numbers).all(2).all(1)


def sudoku_puzzles(
    n: int, hidden: int, seed: int = 0, rows: int = 2, columns: int = 3
) -> tuple[Tensor, Tensor]:
    """n puzzles with one solution each: the solved grids (n, N * N), and which places are hidden.

    hidden: how many places; a grid of which no such puzzle is found is replaced by another
    Raises TypeError or ValueError as `sudokus` does, and where so many places cannot be hidden in
    any of a hundred grids in turn.
    """
    n, N = validate.whole(n, "n"), _size(rows, columns)
    hidden = validate.whole(hidden, "hidden", 1, N * N)
    g = np.random.default_rng((validate.seed(seed), 1))     # not the stream of `sudokus`
    grids, places, misses = [], [], 0
    while len(grids) < n:
        grid = _random_grid(N, rows, columns, g)
        found = _hide(grid, hidden, rows, columns, g)
        misses = misses + 1 if found is None else 0
        if found is not None:
            grids.append(grid)
            places.append(found)
        if misses == 100:
            raise ValueError(
                f"no puzzle with {hidden} hidden places and one solution was found: hide fewer"
            )
    return torch.tensor(grids), torch.tensor(places)


def _random_grid(N: int, rows: int, columns: int, g: np.random.Generator) -> list[int]:
    return next(_solutions([-1] * N * N, rows, columns, g))


def _varied(found: np.ndarray, n: int, seed: int, rows: int) -> np.ndarray:
    """n grids (n, N * N): random ones of `found` under random symmetries of the Sudoku."""
    N = math.isqrt(found.shape[1])
    g = [np.random.default_rng((seed, 2, k)) for k in range(4)]         # a stream for each choice
    x = found[g[0].integers(len(found), size=n)].reshape(n, N, N)
    renamed = g[1].random((n, N)).argsort(1)
    x = np.take_along_axis(renamed, x.reshape(n, N * N), 1).reshape(n, N, N)
    x = np.take_along_axis(x, _regrouped(n, N, rows, g[2])[:, :, None], 1)
    x = np.take_along_axis(x, _regrouped(n, N, N // rows, g[3])[:, None], 2)
    return x.reshape(n, N * N)


def _regrouped(n: int, N: int, size: int, g: np.random.Generator) -> np.ndarray:
    """n random orders (n, N) of N lines in groups of `size`, which stay together."""
    u = g.random((n, N // size + N))                                    # one row, one order
    group = u[:, : N // size].argsort(1).argsort(1)                     # the rank of each group
    return (group.repeat(size, axis=1) + u[:, N // size :]).argsort(1)


def _hide(grid: list[int], hidden: int, rows: int, columns: int, g) -> list[bool] | None:
    """Hide random places one by one, each only if the solution stays the only one."""
    puzzle = list(grid)
    for place in g.permutation(len(grid)):
        kept, puzzle[place] = puzzle[place], -1
        solutions = _solutions(puzzle, rows, columns)
        next(solutions)
        if next(solutions, None) is not None:
            puzzle[place] = kept
        if puzzle.count(-1) == hidden:
            return [value == -1 for value in puzzle]
    return None


def _solutions(grid: list[int], rows: int, columns: int, g=None):
    """Every way to fill the places that are -1. g: numbers are tried in random order."""
    grid, peers, N = list(grid), _peers(rows, columns), rows * columns

    def free(place: int) -> list[int]:
        taken = {grid[other] for other in peers[place]}
        return [number for number in range(N) if number not in taken]

    def fill():
        empty = [place for place, number in enumerate(grid) if number == -1]
        if not empty:
            yield list(grid)
            return
        options = ((free(place), place) for place in empty)
        choices, place = min(options, key=lambda pair: len(pair[0]))
        for number in choices if g is None else g.permutation(choices).tolist():
            grid[place] = int(number)
            yield from fill()
        grid[place] = -1

    return fill()


@cache
def _units(rows: int, columns: int) -> list[list[int]]:
    """The places of each row, column and box."""
    N = rows * columns
    place = np.arange(N * N).reshape(N, N)
    boxes = place.reshape(N // rows, rows, N // columns, columns).swapaxes(1, 2).reshape(N, N)
    return [*place.tolist(), *place.T.tolist(), *boxes.tolist()]


@cache
def _peers(rows: int, columns: int) -> list[set[int]]:
    """For each place those that must have another number."""
    units = _units(rows, columns)
    places = range((rows * columns) ** 2)
    return [{p for unit in units if place in unit for p in unit} - {place} for place in places]


def _size(rows: int, columns: int) -> int:
    N = validate.whole(rows, "rows") * validate.whole(columns, "columns")
    if N > 9:
        raise ValueError(f"grids of {N} x {N} take too long; rows * columns must be at most 9")
    return N
