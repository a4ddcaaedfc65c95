"""Looking a split over: every reference, the first pictures, records with nothing to learn."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from openmplug.batch import Sample
from openmplug.data.checking import check_split
from openmplug.data.images import FolderImages
from openmplug.data.readers import Split


def make_split(root: Path, names: list[str], targets: tuple[str, ...] = ("a",)) -> Split:
    samples = [Sample(str(number), name, "what?", targets) for number, name in enumerate(names)]
    return Split("train", samples, FolderImages(root))


def test_a_good_split(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    opened: list[int] = []
    report = check_split(make_split(tmp_path, ["a.png", "b.png", "a.png"]), opened=opened.append)
    assert report.problems() == []
    assert (report.records, report.pictures, report.opened, report.unused) == (3, 2, 2, 1)
    assert opened == [1, 1]


def test_what_is_wrong_is_counted_and_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    report = check_split(make_split(tmp_path, ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"], targets=()))
    missing, unreadable, silent = report.problems()
    assert missing.startswith("4 of 6 pictures are not in folder")
    assert missing.endswith("'c.png', 'd.png', 'e.png', ...")
    assert unreadable.startswith("1 of 2 opened pictures cannot be read: image 'b.png' is not a picture")
    assert silent == "6 of 6 records have no answer or caption: ids '0', '1', '2', ..."


def test_only_the_first_pictures_are_opened_unless_all_are_wanted(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "4.png").write_text("text")
    split = make_split(tmp_path, names)
    assert check_split(split, open_first=3).problems() == []
    assert len(check_split(split, open_first=None).unreadable) == 1
