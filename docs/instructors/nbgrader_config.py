"""nbgrader's configuration for the seven sheets: copy it to the root of your nbgrader course.

Three things differ from nbgrader's own settings, and the sheets need all three: a longer time
limit; `generate_assignment` takes out the solutions' text and figures, too; each student's
trainings have a folder of their own.
"""
import os
import shutil
import sys
import tempfile
from pathlib import Path

from nbconvert.preprocessors import TagRemovePreprocessor
from nbgrader.converters import GenerateAssignment

c = get_config()  # noqa: F821

# ---- the time limit of one cell, in seconds (nbgrader's own is 30)

LONGEST_CELL = 60           # above what was measured, on one thread: the table in README.md
SLOW_MACHINE = 10           # a laptop on battery, a shared server, a student's slower solution
c.Execute.timeout = LONGEST_CELL * SLOW_MACHINE
c.Execute.startup_timeout = 300         # a kernel that starts from a slow disk
c.Execute.iopub_timeout = 60            # its last words, on a busy machine

# ---- what students get: no solutions, no text and no figure about them

c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_cell_tags = {"solution"}
c.GenerateAssignment.preprocessors = [
    TagRemovePreprocessor,
    *GenerateAssignment.class_traits()["preprocessors"].default(),
]
# the stub of the public sheets: a check calls it "not attempted"
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}

# ---- how submissions are run

# nbgrader calls `alembic`, a program of its own environment, by name
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["COURSE_STATIC"] = "1"       # explorers draw a figure in place of sliders
os.environ["COURSE_STRICT"] = "0"       # a wrong answer prints its diagnosis, the test decides
os.environ.setdefault("OMP_NUM_THREADS", "1")


def new_runs(**_):
    """A folder of trainings for this student alone: nobody goes on with another's run."""
    os.environ["COURSE_RUNS"] = tempfile.mkdtemp(prefix="course-runs-")


def remove_runs(**_):
    """Remove the folder when the student's notebook is marked."""
    shutil.rmtree(os.environ.pop("COURSE_RUNS", ""), ignore_errors=True)


c.Autograde.pre_convert_hook = new_runs
c.Autograde.post_convert_hook = remove_runs
