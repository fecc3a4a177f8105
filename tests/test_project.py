"""The house itself: one list of dependencies, one address, a light import, assets with licences."""
import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_only_delegates():
    """The conda file names Python, pip and the project itself, and nothing that pyproject.toml
    lists.
    """
    text = (ROOT / "environment.yml").read_text()
    entries = [line.strip()[2:] for line in text.splitlines() if line.strip().startswith("- ")]
    assert (
        [e for e in entries if not e.startswith("pip:")]
        == [f"python {PROJECT['requires-python']},<3.14", "pip", "-e .[dev]"]
    )
    assert "dev" in PROJECT["optional-dependencies"]


def test_the_readme_and_citation_use_the_one_address():
    address = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    for name in ("README.md", "CITATION.cff"):
        text = (ROOT / name).read_text()
        assert address in text and text.count("OWNER/") == text.count(address) * address.startswith(
            "OWNER/"
        ), name


def test_the_readme_tells_every_lesson_and_its_links_exist():
    readme = (ROOT / "README.md").read_text()
    for number in range(1, 8):
        assert f"| {number} |" in readme
    for link in re.findall(r"\]\(((?!http|#)[^)]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_readme_counts_the_doors():
    tables = [file.read_text(encoding="utf-8") for file in (ROOT / "tests/doors").glob("*.toml")]
    number = sum(len(tomllib.loads(table)["case"]) for table in tables)
    assert f"of {number:,} calls" in (ROOT / "README.md").read_text()


def test_the_readme_s_python_runs(tmp_path):
    """Every Python block, one after the other, with a second of training, on twenty pictures."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) == 3 and "seconds=60," in blocks[0] and "seconds=3600" in blocks[2]
    (tmp_path / "photos").mkdir()
    for k in range(20):
        picture = Image.new("RGB", (80, 70 + k), (12 * k, 100, 200))
        picture.save(tmp_path / f"photos/{k}.png")
    code = re.sub(r"seconds=\d+", "seconds=1", "\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COURSE_RUNS": str(tmp_path), "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_course_is_light():
    """No figures, data or notebook machinery until they are asked for."""
    code = (
        "import sys, course_lib; print([m for m in ('matplotlib', 'torchvision', 'scipy', "
        "'IPython', 'ipywidgets', 'accelerate', 'course_lib.lab') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


def test_the_two_walls():
    """The mathematics imports no network; networks import no schedule, denoiser or sampler."""
    mathematics = [f.stem for f in (ROOT / "course_lib").glob("*.py") if f.stem != "__init__"]
    assert {"schedules", "denoiser", "samplers", "guidance", "editing"} <= set(mathematics)
    for name in mathematics:
        assert not re.search(
            r"^from \.(networks|lab)|^import course_lib",
            (ROOT / f"course_lib/{name}.py").read_text(),
            re.M,
        ), name
    for file in (ROOT / "course_lib/networks").glob("*.py"):
        assert not re.search(
            r"schedules|samplers|denoiser|\.\.lab",
            "".join(re.findall(r"^(?:from|import) .*$", file.read_text(), re.M)),
        ), file.name


def test_every_asset_has_a_licence_line_and_all_are_small():
    licences = (ROOT / "course_lib/assets/LICENSES.md").read_text()
    files = [
        p for p in (ROOT / "course_lib/assets").rglob("*") if p.suffix in (".npz", ".safetensors")
    ]
    assert files and all(p.name in licences for p in files)
    assert sum(p.stat().st_size for p in files) < 65e6


def test_no_machine_or_registry_is_named():
    """No absolute path of a developer's machine and no registry address in what is committed as
    text.
    """
    for pattern in ("*.py", "*/*.py", "*/*/*.py", "*.md", "*.toml", "Makefile", ".ci/run", "*.yml"):
        for file in ROOT.glob(pattern):
            if ".venv" not in file.parts and file.name != "test_project.py":
                assert not re.search(
                    r"/work/|/root/|pypi\.org|index-url|/home/", file.read_text()
                ), file


def test_every_script_compiles_and_says_what_it_does():
    """Benchmarks and tools are not run by the tests, but at least they are Python, with a docstring
    that shows how to run them.
    """
    for file in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        if file.name == "setup_cell.py" or (file.parent / "__init__.py").exists():
            continue                                        # no script, a part of one
        words = ast.get_docstring(ast.parse(file.read_text(), file.name))
        assert f"python {file.relative_to(ROOT).as_posix()}" in words, file.name


def test_the_code_is_readable():
    """ruff, the widths of lines, one statement a line, the lengths of functions: `make lint`."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/lint.py"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(ROOT / "tools"))
    import lint
    assert lint.median_length() <= lint.MEDIAN_LINES


def test_no_module_is_shadowed_by_a_name_of_its_package():
    """`course_lib.lab.data.toys` is a module whatever the package exports."""
    for file in (ROOT / "course_lib").rglob("*.py"):
        if file.stem.startswith("__") or "assets" in file.parts:
            continue
        package = file.parent.relative_to(ROOT).as_posix().replace("/", ".")
        exported = getattr(importlib.import_module(package), file.stem, None)
        assert exported is None or inspect.ismodule(exported), f"{package}.{file.stem}"


def test_the_short_names_of_the_lab():
    from course_lib import lab
    for name in dir(lab):
        assert inspect.ismodule(getattr(lab, name)), name


def test_the_list_of_mutations_follows_the_code():
    """Each expression that tools/mutations.py would break stands in its file, once."""
    sys.path.insert(0, str(ROOT / "tools"))
    import mutations
    stale = [
        (path.name, old)
        for path, old, *_ in mutations.entries(ROOT)
        if path.read_text().count(old) != 1
    ]
    assert not stale, stale
