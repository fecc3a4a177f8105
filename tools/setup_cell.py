# Set-up. On Colab and Kaggle this installs course_lib; elsewhere it only reports.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("course_lib") is None:
    source = os.environ.get("COURSE_SOURCE", "git+{{address}}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"course_lib could not be installed from {source}. Is the internet switched on "
            f"for this notebook? pip said: {done.stderr.strip()[-300:]}"
        )
    importlib.invalidate_caches()

from course_lib.lab import train

print(train.about_machine())
