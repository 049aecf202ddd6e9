"""How kernels are started, and how often a notebook is saved."""

import os
import sys

from papermill.engines import NotebookExecutionManager

from course_utils import kernels


def test_a_kernel_is_this_python_in_the_given_environment(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    options = kernels.client_options("folder", {"OMP_NUM_THREADS": "3"})
    spec = kernels.ThisPython(config=options["config"]).kernel_spec
    assert spec.argv[0] == sys.executable
    assert (spec.env["OMP_NUM_THREADS"], spec.env["OMP_WAIT_POLICY"]) == ("3", "ACTIVE")
    assert "OMP_NUM_THREADS" not in kernels.ThisPython().kernel_spec.env
    assert str(kernels.PROJECT) in spec.env["PYTHONPATH"].split(os.pathsep)


def test_a_notebook_is_saved_at_the_end_whatever_happens(monkeypatch):
    saved = []
    monkeypatch.setattr(NotebookExecutionManager, "save", lambda self, **_: saved.append(self.output_path))

    def run(cls, manager, kernel_name, **options):
        manager.save()
        raise RuntimeError("kernel died")

    monkeypatch.setattr(kernels.NBClientEngine, "execute_managed_notebook", classmethod(run))
    manager = NotebookExecutionManager({}, output_path="out.ipynb", progress_bar=False)
    try:
        kernels.SavesOnce.execute_managed_notebook(manager, "python3")
    except RuntimeError:
        manager.save()
    assert saved == [None, "out.ipynb"], "on the way it is saved nowhere"
