"""The folders of runs: one lock each, and one experiment each.

A call whose settings differ from those of runs/NAME gets runs/NAME.1, and so on: nothing is moved
or overwritten, and the same settings find the same folder again.
"""
import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..storage import load_header
from .fingerprint import differences

STATE = "state.safetensors"


def runs_folder() -> Path:
    """Where runs are written: $COURSE_RUNS, else runs/ in the repository or the working folder."""
    if os.environ.get("COURSE_RUNS"):
        return Path(os.environ["COURSE_RUNS"]).expanduser()
    repository = Path(__file__).parents[3]
    root = repository if (repository / "pyproject.toml").exists() else Path.cwd()
    return root / "runs"


def named_folder(run_name: str | Path) -> Path:
    """The folder of that name, in `runs_folder()`.

    Raises TypeError or ValueError for what names no folder below it.
    """
    if not isinstance(run_name, (str, Path)):
        raise TypeError(f"run_name must be a name, or None; got {type(run_name).__name__}")
    path = Path(run_name).expanduser()
    if not str(run_name).strip() or not path.name or ".." in path.parts:
        raise ValueError(f"run_name must name a folder of its own; got {str(run_name)!r}")
    return runs_folder() / path


def find_folder(folder: Path, *fingerprints: dict) -> tuple[Path, dict | None, list[str]]:
    """The folder in which this experiment is or will be kept, the fingerprint it was saved with
    (None: it is new), and what differs from the run in the first folder, if another is there.

    fingerprints: of the experiment, the likeliest first. Raises OSError for a damaged state.
    """
    places = {0: folder}
    for path in folder.parent.glob(f"{glob.escape(folder.name)}.*"):
        if path.suffix[1:].isdigit():
            places[int(path.suffix[1:])] = path
    there = {k: path for k, path in sorted(places.items()) if (path / STATE).exists()}
    kept = {path: load_header(path / STATE).get("experiment", {}) for path in there.values()}
    for this in fingerprints:
        for path, saved in kept.items():
            if not differences(saved, this):
                return path, this, []
    differs = differences(kept[folder], fingerprints[-1]) if folder in kept else []
    free = next(k for k in range(len(there) + 1) if k not in there)
    return folder.with_name(f"{folder.name}.{free}") if free else folder, None, differs


@contextlib.contextmanager
def locked(folder: Path, needed: int) -> Iterator[None]:
    """The folder, made if need be, for this process alone; tried before anything is trained.

    needed: bytes that the run will write. The lock is the operating system's: it ends with the
    process, however that ends. Raises OSError for a folder that cannot be written, a disk that is
    too full, and a folder in which another process trains.
    """
    owner = folder / "process.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(
            f"{folder} is in use: process {_owner(owner)} trains there. Wait for it, stop it, or "
            "take another run_name"
        ) from None
    except NotImplementedError:                             # a file system without locks
        lock = None
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror or error}): set COURSE_RUNS to a folder "
            "of yours, or pass run_name=None to keep nothing"
        ) from None
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(
                f"{folder}: the run needs {needed / 1e6:.0f} MB on the disk, and "
                f"{free / 1e6:.0f} MB are free"
            )
        for left in folder.glob("*.partial"):               # by a process that was killed
            left.unlink(missing_ok=True)
        owner.write_text(json.dumps(os.getpid()))
        yield
    finally:
        if lock is not None:
            lock.release()


def _owner(file: Path) -> str:
    try:
        return str(json.loads(file.read_text()))
    except (OSError, ValueError):
        return "of another program"
