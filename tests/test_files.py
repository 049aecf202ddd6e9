"""Files are written whole or not at all, errors say what to do, and each state of the sources has its own hash."""

import errno
import stat
import threading
from pathlib import Path

import pytest

from course_utils.core import files, settings
from course_utils.core.files import OSERROR_HINTS, atomic_write, source_hash, write_text


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_write(path) as part:
        part.write_text("first")
        assert part.parent == path.parent
        assert part.name.startswith(".file.")
        assert part.name.endswith(".course-part"), "unmistakably ours"
        assert not path.exists()
    assert path.read_text() == "first"

    def fail():
        with atomic_write(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "first"
    assert files_in(tmp_path) == ["new/folder/file"]


def test_replacing_keeps_other_errors():
    def fail():
        with atomic_write(settings.cache_dir() / "x"):
            raise OSError(errno.ECONNRESET, "gone")

    with pytest.raises(OSError, match="gone") as caught:
        fail()
    assert caught.value.errno == errno.ECONNRESET


def test_many_writers_at_once(tmp_path):
    """The last one wins, and every reader sees one whole file."""
    path, trouble = tmp_path / "file", []

    def write(letter):
        for _ in range(20):
            with atomic_write(path) as part:
                part.write_text(letter * 10_000)
            text = path.read_text()
            if len(text) != 10_000 or len(set(text)) != 1:
                trouble.append(text)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble
    assert files_in(tmp_path) == ["file"]


def test_a_text_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old\n")]


def test_files_can_be_read_by_those_who_share_the_folder(tmp_path):
    plain, replaced = tmp_path / "plain", tmp_path / "replaced"
    plain.write_text("")
    write_text(replaced, "")
    assert stat.S_IMODE(replaced.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("number", OSERROR_HINTS)
def test_each_known_trouble_has_a_cure(number, tmp_path):
    for path, cure in ((tmp_path / "x", "choose another folder"), (settings.cache_dir() / "x", "set COURSE_CACHE")):
        with pytest.raises(OSError, match=cure) as caught, atomic_write(path):
            raise OSError(number, "trouble")
        assert caught.value.errno == number


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two rooms, whose sources a test may change."""
    for name in ("one/__init__.py", "one/a.py", "two/__init__.py", "two/inner/b.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x = 1\ny = 2\n")
    monkeypatch.setattr(files, "PACKAGE", tmp_path)
    yield tmp_path
    source_hash.cache_clear()


def hashed(*rooms):
    source_hash.cache_clear()
    return source_hash(*rooms)


def test_a_change_of_a_source_changes_the_hash_of_its_room_alone(package):
    one, two, both = hashed("one"), hashed("two"), hashed("one", "two")
    assert len({one, two, both}) == 3
    assert hashed("two", "one", "one") == both
    (package / "two" / "inner" / "b.py").write_bytes(b"x = 1\ny = 3\n")
    assert hashed("one") == one
    assert hashed("two") != two
    assert hashed("one", "two") != both
    (package / "one" / "a.py").rename(package / "one" / "c.py")
    assert hashed("one") != one


def test_line_endings_and_compiled_files_do_not_change_the_hash(package):
    one = hashed("one")
    (package / "one" / "a.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    (package / "one" / "__pycache__").mkdir()
    (package / "one" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert hashed("one") == one


def test_the_sources_are_read_once(package):
    one = hashed("one")
    (package / "one" / "a.py").write_bytes(b"x = 2\n")
    assert source_hash("one") == one


@pytest.mark.parametrize("rooms", [(), ("modls",), ("models", ""), ("../course_utils",), ("templates",)])
def test_a_room_that_is_not_there_is_refused(rooms):
    with pytest.raises(ValueError, match="expected the names of rooms"):
        source_hash(*rooms)
