"""Colab, simulated: ipywidgets 7.7.1, a folder outside the repository, course_lib not installed;
the set-up cell installs it.
"""
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A new environment that sees our torch and Jupyter, but an old ipywidgets and no course_lib;
    its kernel's name is `colab`.
    """
    home = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", home / "env"], check=True)
    python = home / "env/bin/python"
    done = subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "ipywidgets==7.7.1",
            "ipython_genutils",
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"ipywidgets 7.7.1 could not be installed here: {done.stderr.strip()[-200:]}")
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # as a plain path: the outer editable install stays unseen
    Path(packages, "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    spec = home / "jupyter/kernels/colab"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "colab",
                "language": "python",
            }
        )
    )
    (home / "content").mkdir()
    return home


def run(notebook, colab):
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="colab",
        resources={"metadata": {"path": str(colab / "content")}},
    ).execute()


@pytest.mark.slow
def test_without_a_network_the_set_up_cell_says_so(colab, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(colab / "jupyter"))
    monkeypatch.setenv("COURSE_SOURCE", str(colab / "nothing-here"))
    notebook = nbformat.read(ROOT / "notebooks/01_diffusion_fundamentals.ipynb", 4)
    notebook.cells = [cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])]
    with pytest.raises(
        CellExecutionError, match="could not be installed from .*Is the internet switched on"
    ):
        run(notebook, colab)


@pytest.mark.slow
def test_the_first_cells_run_on_an_old_colab(colab, monkeypatch):
    """From the set-up cell to the first widget, live, in /content; the package comes from the
    checkout in place of the network.
    """
    monkeypatch.setenv("JUPYTER_PATH", str(colab / "jupyter"))
    monkeypatch.setenv("COURSE_SOURCE", str(ROOT))
    monkeypatch.delenv("COURSE_STATIC", raising=False)
    notebook = nbformat.read(ROOT / "notebooks/01_diffusion_fundamentals.ipynb", 4)
    first_widget = next(
        i
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and "widgets." in cell.source
    )
    notebook.cells = [
        nbformat.v4.new_code_cell(
            "import importlib.util; print(importlib.util.find_spec('course_lib'))"
        )
    ] + notebook.cells[: first_widget + 1]
    notebook.cells.append(
        nbformat.v4.new_code_cell("import course_lib; print(course_lib.__file__)")
    )
    run(notebook, colab)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].outputs[0].text.strip() == "None", (
        "course_lib must not be importable before the set-up cell"
    )
    assert "ipywidgets 7.7.1" in code[1].outputs[-1].text
    assert str(colab / "env") in code[-1].outputs[0].text, (
        "installed into the simulated Colab, not found in the repository"
    )
    assert any(
        "application/vnd.jupyter.widget-view+json" in output.get("data", {})
        for output in code[-2].outputs
    ), "the slider is shown"
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
