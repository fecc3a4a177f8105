"""What several test files need."""
import pytest


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Trainings on the CPU in fp32, written to a folder of the test's own."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    return tmp_path
