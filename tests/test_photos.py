"""Photographs: those that come with packages and the reader's own, odd, huge and broken; and what a network gets."""

import hashlib
import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from course_utils.core import PROJECT
from course_utils.core.vision import torchvision
from course_utils.data import load_photos, photos, preprocess, read_photo, save_png

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


def as_bytes(photo):
    """(3, H, W) in k/255 → (H, W, 3) of whole numbers."""
    assert torch.equal((photo * 255).round() / 255, photo)
    return (photo * 255).round().byte().permute(1, 2, 0).numpy()


def read(content):
    return as_bytes(read_photo(content))


# Those that come with packages ----------------------------------------------------------------------------------------


def test_the_samples_are_the_files_as_they_are():
    samples = load_photos()
    assert list(samples) == ["chelsea", "coffee", "rocket", "china", "flower", "grace_hopper"]
    for name, photo in samples.items():
        with Image.open(photos._sample(*photos.SAMPLES[name])) as picture:
            assert np.array_equal(as_bytes(photo), np.asarray(picture))
        assert photo.dtype == torch.float32


def test_the_samples_have_the_checksums_of_the_readme():
    text = (PROJECT / "data" / "README.md").read_text(encoding="utf-8")
    for name, place in photos.SAMPLES.items():
        digest = hashlib.sha256(photos._sample(*place).read_bytes()).hexdigest()
        assert f"`{digest}`" in text, name


@pytest.mark.parametrize("place", [("skimage", "data/none.png"), ("no_such_package", "none.png")])
def test_a_missing_sample_is_named(place, monkeypatch):
    monkeypatch.setitem(photos.SAMPLES, "chelsea", place)
    with pytest.raises(FileNotFoundError, match=rf"none\.png is missing: reinstall {place[0]}"):
        load_photos()


# The reader's own: kinds of pictures ----------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_turned_as_the_camera_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read(encoded(PICTURE, exif=exif)), UPRIGHT[orientation](PIXELS))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_kinds_are_read_exactly(kind):
    assert np.array_equal(read(encoded(PICTURE, kind)), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_kinds_are_read(kind):
    even = Image.new("RGB", (20, 12), (200, 100, 50))
    assert np.abs(read(encoded(even, kind)).astype(int) - (200, 100, 50)).max() < 10


def test_grey_and_palette_become_colours():
    grey = PICTURE.convert("L")
    assert np.array_equal(read(encoded(grey)), np.repeat(np.asarray(grey)[..., None], 3, 2))
    assert set(read(encoded(PICTURE.convert("1"))).flatten()) == {0, 255}
    palette = PICTURE.quantize(16)
    assert np.array_equal(read(encoded(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_laid_on_white(mode):
    picture = PICTURE.convert(mode)
    alpha = np.linspace(0, 255, 240).round().astype(np.uint8).reshape(12, 20)
    picture.putalpha(Image.fromarray(alpha))
    share = alpha[..., None] / 255
    expected = share * np.asarray(PICTURE.convert(mode[:-1]).convert("RGB")) + (1 - share) * 255
    assert np.abs(read(encoded(picture)) - expected).max() <= 1


def test_a_transparent_colour_of_a_palette_is_white():
    palette = PICTURE.quantize(16)
    got = read(encoded(palette, transparency=3))
    seen = np.asarray(palette) != 3
    assert (got[~seen] == 255).all()
    assert np.array_equal(got[seen], np.asarray(palette.convert("RGB"))[seen])


def test_inks_become_lights():
    red = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert np.abs(read(encoded(red, "TIFF")).astype(int) - (255, 0, 0)).max() <= 2


def test_sixteen_bits_are_rounded_to_eight():
    levels = np.arange(0, 65536, 37, dtype=np.uint16)[:1764].reshape(42, 42)
    got = read(encoded(Image.fromarray(levels)))
    assert (got == (levels / 65535 * 255).round()[..., None]).all()


def test_colours_of_sixteen_bits():
    """Pillow cannot write such a file, so it is put together here."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in PIXELS.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", 20, 12, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(read(content), PIXELS)


def test_the_first_picture_of_several_is_taken():
    other = Image.new("RGB", (20, 12), "black")
    assert np.array_equal(read(encoded(PICTURE, "TIFF", save_all=True, append_images=[other])), PIXELS)


def test_a_path_and_what_is_in_it_are_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(PICTURE))
    for content in (encoded(PICTURE), memoryview(encoded(PICTURE))):
        assert torch.equal(read_photo(tmp_path / "a.png"), read_photo(content))
    assert torch.equal(read_photo(str(tmp_path / "a.png")), load_photos(tmp_path / "a.png")["a"])


# Huge and broken ------------------------------------------------------------------------------------------------------


def test_a_huge_photo_is_made_smaller(monkeypatch):
    monkeypatch.setattr(photos, "MAX_SIDE", 10)
    with pytest.warns(UserWarning, match="the picture has 20 by 12 pixels: it is used at 10 by 6"):
        photo = read_photo(encoded(PICTURE))
    assert photo.shape == (3, 6, 10)
    assert abs(photo.mean() - PIXELS.mean() / 255) < 0.05


def test_a_photo_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"more than .* million pixels: make it smaller"):
        read_photo(encoded(PICTURE))


def test_a_large_photo_below_that_is_no_alarm(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read(encoded(PICTURE)), PIXELS)


BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"I am no picture", "no picture of a known kind"),
    "zip": (b"PK\x03\x04" + bytes(40), "no picture of a known kind"),
    "iphone": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC.*export it as JPEG"),
    "vector": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known kind"),
    "cut jpeg": (encoded(PICTURE, "JPEG")[:-200], "damaged or cut off"),
    "cut png": (encoded(PICTURE)[:-300], "damaged or cut off"),
    "32 bits": (encoded(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"), "32 bits"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused_by_name(content, message, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=rf"holiday\.jpg .*{message}"):
        load_photos(tmp_path / "holiday.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_whatever_is_damaged_gives_a_photo_or_one_error(kind):
    rng, whole = random.Random(0), encoded(PICTURE, kind)
    refused = 0
    for _ in range(100):
        content = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.choice([1, 3, 10])):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                photo = read_photo(bytes(content))
        except ValueError as error:
            refused += 1
            assert str(error).startswith("the picture ")  # noqa: PT017 - most damages are refused, not all
        else:
            assert photo.shape[0] == 3
            assert 0 <= photo.min() <= photo.max() <= 1
    assert refused > 20


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*none: correct"):
        load_photos(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.png"):
        read_photo(tmp_path / "none.png")
    with pytest.raises(ValueError, match="cannot be read"):
        read_photo(tmp_path)


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(encoded(PICTURE))
    return tmp_path


def test_a_folder_is_read_in_order_without_what_is_hidden(folder):
    (folder / ".DS_Store").write_bytes(b"no picture")
    (folder / "more").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(load_photos(str(folder))) == ["a", "b"]


def test_files_that_are_no_photos_are_named(folder):
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.jpg").write_bytes(encoded(PICTURE, "JPEG")[:-200])
    with pytest.warns(UserWarning, match=r"left out 2 of 4 files") as warned:
        assert list(load_photos(folder)) == ["a", "b"]
    assert warned[0].filename == __file__
    for expected in ("notes.txt is no picture", "cut.jpg cannot be decoded"):
        assert expected in str(warned[0].message)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.png.png"])
def test_equal_names_do_not_hide_each_other(folder, name):
    (folder / name).write_bytes(encoded(PICTURE))
    (folder / "a.gif").write_bytes(encoded(PICTURE))
    names = list(load_photos(folder))
    assert len(names) == 4
    assert {"a.png", "a.gif", "b"} <= set(names)


@pytest.mark.parametrize(
    ("files", "message"), [({}, "holds no files"), ({"x.txt": b"text"}, r"1 files can.*\s.*x\.txt is no")]
)
def test_a_folder_without_photos(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s){message}.*Put JPEG or PNG files there"):
        load_photos(tmp_path)


# 8-bit files ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_a_file_holds_the_nearest_of_256_levels(tmp_path, seed, height, width):
    x = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    save_png(x, tmp_path / "x.png")
    stored = read_photo(tmp_path / "x.png")
    assert ((stored - x).abs() <= 0.5 / 255 + 1e-7).all()
    assert torch.equal(stored, (x * 255).round() / 255)
    save_png(stored, tmp_path / "again.png")
    assert torch.equal(read_photo(tmp_path / "again.png"), stored)


def test_a_ball_of_whole_levels_is_kept():
    """What lies within 8/255 of a photo still does after the file; cutting off instead of rounding loses that."""
    photo = torch.from_numpy(PIXELS).permute(2, 0, 1).float().div(255)
    adv = (photo + (8 / 255) * (2 * torch.rand(photo.shape) - 1).sign()).clamp(0, 1)
    levels = [(x * 255).double() for x in (photo, adv)]
    assert ((levels[1].trunc() - levels[0].round()).abs() > 8).any()
    assert ((levels[1].round() - levels[0].round()).abs() <= 8).all()


@pytest.mark.parametrize(
    ("x", "name", "message"),
    [
        (torch.rand(3, 4, 4), "x.jpg", "ends in .png, got 'x.jpg'"),
        (torch.rand(1, 3, 4, 4), "x.png", r"float tensor \(3, H, W\), got torch.float32 \(1, 3, 4, 4\)"),
        (torch.rand(1, 4, 4), "x.png", r"float tensor \(3, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "x.png", r"float tensor .*uint8"),
        (torch.full((3, 4, 4), 1.01), "x.png", r"values in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), "x.png", r"values in \[0, 1\]"),
        (torch.rand(3, 0, 4), "x.png", "at least one pixel"),
        ([1.0], "x.png", r"float tensor .*got list"),
    ],
)
def test_what_cannot_be_written(x, name, message, tmp_path):
    (tmp_path / name).write_bytes(b"as it was")
    with pytest.raises(ValueError, match=message):
        save_png(x, tmp_path / name)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"as it was"]


# For a network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "resize"), [(224, None), (64, 64), (97, 150)])
def test_preprocessing_is_torchvisions_own(size, resize):
    """Torchvision's transforms of Pillow's picture, in bytes, are the oracle; they round between the two directions."""
    samples = load_photos()
    x = preprocess(samples, size, resize=resize)
    assert x.shape == (6, 3, size, size)
    assert torch.equal((x * 255).round() / 255, x)
    steps = torchvision.transforms
    usual = steps.Compose([steps.Resize(resize or round(size * 256 / 224)), steps.CenterCrop(size), steps.ToTensor()])
    for got, photo in zip(x, samples.values(), strict=True):
        assert ((got - usual(Image.fromarray(as_bytes(photo)))).abs() * 255).max() < 1.01


def test_one_several_named_and_a_batch_are_the_same():
    several = [torch.rand(3, 30, 40), torch.rand(3, 40, 30)]
    expected = preprocess(several, 16)
    assert torch.equal(preprocess({"a": several[0], "b": several[1]}, 16), expected)
    assert torch.equal(preprocess(several[0], 16), expected[:1])
    assert torch.equal(preprocess(torch.stack([several[0], several[0]]), 16)[1], expected[0])


def test_a_photo_of_the_right_size_stays():
    x = torch.from_numpy(PIXELS[:, :12]).permute(2, 0, 1).float().div(255)
    assert torch.equal(preprocess(x, 12, resize=12)[0], x)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 30), (3, 30, 1), (3, 5, 4)])
def test_tiny_photos_are_enlarged(shape):
    assert preprocess(torch.rand(shape), 32).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one photo"),
        (({},), "at least one photo"),
        ((torch.rand(1, 8, 8),), r"float tensor \(3, H, W\)"),
        ((torch.rand(8, 8),), r"float tensor \(3, H, W\)"),
        ((torch.rand(3, 8, 8) * 255,), r"values in \[0, 1\]"),
        ((torch.rand(3, 1, 31),), "31 by 1 pixels is too narrow"),
        ((torch.rand(3, 8, 8), 0), "1 <= size <= resize, got size=0"),
        ((torch.rand(3, 8, 8), 2.5), "whole numbers"),
        ((["cat.jpg"],), r"float tensor .*got str.*load_photos"),
    ],
)
def test_what_cannot_be_preprocessed(arguments, message):
    with pytest.raises(ValueError, match=message):
        preprocess(*arguments)


def test_the_crop_must_fit():
    with pytest.raises(ValueError, match="size=32, resize=31"):
        preprocess(torch.rand(3, 8, 8), 32, resize=31)
