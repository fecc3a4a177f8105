"""The folder of files that the course ships, and the check that they are whole."""
import hashlib
from functools import lru_cache
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"


def check_digest(file: Path, sha256: str) -> None:
    """Refuse a shipped file that is missing, truncated or altered, and say how to get it back."""
    remedy = "reinstall course_lib, or run `git checkout -- course_lib/assets` in the repository"
    if not Path(file).exists():
        raise FileNotFoundError(f"{file} is missing: {remedy}")
    if _digest(file, Path(file).stat().st_mtime_ns) != sha256:
        raise OSError(f"{file} is damaged (its SHA-256 differs: perhaps a truncated download): {remedy}")


@lru_cache
def _digest(file: Path, modified: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
