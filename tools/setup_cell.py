# Set-up. On Colab and Kaggle this installs course_lib; where it is installed already, it only says what it found.
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("course_lib") is None:
    source = os.environ.get("COURSE_SOURCE", "git+{{address}}")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True)
    importlib.invalidate_caches()

from course_lib.lab import machine
print(machine.about())
