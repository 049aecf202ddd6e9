"""How papermill runs a notebook of the course: which Python, in which environment, and how often it saves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from traitlets import Dict, default
from traitlets.config import Config

from .runtime import PROJECT, THREADS

ENGINE = "course"


class ThisPython(AsyncKernelManager):
    """Starts kernels with the Python that runs the course, whatever a kernel called "python3" elsewhere may be."""

    environment = Dict(help="variables set in the kernel, besides those of this process").tag(config=True)

    @default("transport_encryption")
    def _encrypt_where_possible(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        from ipykernel.kernelspec import get_kernel_dict

        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        threads = {name: os.environ.get(name, value) for name, value in THREADS.items()}
        return KernelSpec(**get_kernel_dict(), env={"PYTHONPATH": path, **threads, **self.environment})


class SavesOnce(NBClientEngine):
    """papermill's own engine writes the notebook twice for each cell: for a chapter, seconds. This one does at the end.

    An exception does not keep it from that.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any) -> None:
        target, nb_man.output_path = nb_man.output_path, None
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **options)
        finally:
            nb_man.output_path = target


papermill_engines.register(ENGINE, SavesOnce)


def client_options(folder: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what nbclient needs to know to start a kernel in a folder."""
    return {
        "kernel_manager_class": ThisPython,
        "kernel_name": "python3",
        "config": Config(ThisPython={"environment": dict(environment)}),
        "resources": {"metadata": {"path": folder}},  # papermill's own `cwd` moves this whole process
        "store_widget_state": False,
        "coalesce_streams": True,
        "extra_arguments": ["--log-level=CRITICAL"],  # else each kernel says on stderr that it was told to end
    }
