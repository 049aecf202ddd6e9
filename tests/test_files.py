"""Files are written whole or not at all, and errors say what to do."""

import errno
import stat
import threading
from pathlib import Path

import pytest

from course_utils.core import settings
from course_utils.core.files import OSERROR_HINTS, atomic_write, write_text


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
