"""What several test files need."""
import pytest
import torch

from course_lib.checks import Checker

# as in the processes that tests start, so that a run is the same bit for bit
torch.set_num_threads(1)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Trainings on the CPU in fp32, written to a folder of the test's own."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def refused(capsys, monkeypatch):
    """refused(question, diagnosis, answer): the check says "not yet", and why."""
    monkeypatch.delenv("COURSE_STRICT", raising=False)

    def judge(name, diagnosis, answer):
        check = Checker()
        check(name, answer)
        said = capsys.readouterr().out
        assert (
            not check.passed(name) and said.startswith(f"{name} not yet") and diagnosis in said
        ), said
    return judge
