"""OpenDV: the list with its quirks, the language annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_opendv import FOLDER, A, B, C, put, row, said, source, write_list
from toy_video import regular

from gwm.shards import SourceError
from gwm.shards.opendv.annotations import Annotation, captions_of, pack, read_annotations, unpack
from gwm.shards.opendv.sheet import HEADER, read_list
from gwm.shards.schema import Caption, Skipped

REAL = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "opendv" / "OpenDV-YouTube.csv"


# --- the list


def test_the_real_list():
    if not REAL.is_file():
        pytest.skip("no ../shared/data/opendv beside the repository")
    videos, skipped = read_list(REAL)
    assert skipped == []
    assert len(videos) == len({video.id for video in videos}) == 2139
    assert [sum(video.split == split for video in videos) for split in ("train", "val")] == [2109, 30]
    assert sum(video.mini for video in videos) == 34
    assert sum(video.id.startswith("-") for video in videos) == 36
    assert sum(video.length for video in videos) / 3600 == pytest.approx(1781.3, abs=0.05)
    assert sum(video.frames for video in videos) / 36000 == pytest.approx(1697.5, abs=0.05)
    assert videos[0].place == "J_Utah/--I-TdCe2_g"


def test_the_list_is_read_however_it_was_saved(tmp_path):
    rows = [row(A, duration="1:02:03"), row(B, "Val", "Mini", "9:59", "0", "2.5")]
    plain_list = read_list(write_list(tmp_path / "a.csv", *rows))
    loose = ["  " + name.upper().replace(" ", "  ").replace("BEGININNING", "Beginning") for name in HEADER]
    assert read_list(write_list(tmp_path / "b.csv", *rows, header=loose, encoding="utf-8-sig")) == plain_list
    names = ("id", "videoid", "title", "youtuber", "link", "duration", "split", "subset", "area", "state")
    fields = [dict(zip((*names, "start_discard", "end_discard"), r, strict=True)) for r in rows]
    fields[0] |= {"start_discard": 1, "end_discard": 1, "length": 3723}
    (tmp_path / "c.json").write_text(json.dumps(fields))
    assert read_list(tmp_path / "c.json") == plain_list
    (one, two), _ = plain_list
    assert (one.length, one.start_discard, one.area, one.state, one.mini) == (3723, 1, "Peru", "", False)
    assert (two.split, two.length, two.end_discard, two.mini) == ("val", 599, 2.5, True)
    assert one.place == f"{FOLDER}/{A}"


def test_rows_of_no_use_are_named(tmp_path):
    bad = {
        "id is not 11 letters, digits, - or _": row("#NAME?"),
        "discarded length is not a number of seconds": row("c" * 11, start="soon"),
        "video is in the list already": row(A, start="2"),
        "neither Train nor Val": row("d" * 11, "Test"),
        "neither Mini nor Full": row("e" * 11, subset=""),
        "YouTuber cannot be the name of a folder": row("f" * 11, youtuber="../.."),
    }
    short = row("g" * 11)[:10]  # the last cells are missing
    path = write_list(tmp_path / "a.csv", row(A), [], [""] * 12, *bad.values(), row(B), row("h" * 11, end="nan"), short)
    videos, skipped = read_list(path)
    assert [video.id for video in videos] == [A, B]
    assert videos[0].start_discard == 1
    assert [s.cause for s in skipped] == [*bad, *["discarded length is not a number of seconds"] * 2]
    assert skipped[0].item == "a.csv, row 5: #NAME?"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"", "no column VideoID, YouTuber, Train / Val"),
        ("a.csv", ",".join(HEADER[:11]).encode(), r"no column Discarded Length at the Ending \(second\)"),
        ("a.csv", b"\xff\xfe\x00", "no list of videos"),
        ("a.csv", b'VideoID,"YouTuber', "no list of videos"),
        ("a.json", b"{}", "not a JSON list"),
        ("a.json", b'[{"videoid": "x"', "no list of videos"),
        ("a.json", b"[" * 10**5, "no list of videos"),
        ("a.json", b"[]", "no column VideoID"),
    ],
)
def test_what_is_no_list(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    for use in (read_list, lambda path: source(tmp_path, sheet=path).items()):
        with pytest.raises(SourceError, match=words):
            use(tmp_path / name)


def test_what_to_put_where_is_said(tmp_path):
    for folder, words in ((tmp_path / "no", "no folder"), (tmp_path, "no list of videos")):
        with pytest.raises(SourceError, match=rf"{words} .*meta/OpenDV-YouTube.csv.*gwm world OUT --as opendv"):
            source(folder).items()
    write_list(tmp_path / "OpenDV-YouTube.csv", row())
    with pytest.raises(SourceError, match="none of the 1 chosen videos"):
        source(tmp_path).items()
    put(tmp_path, f"{A}.mp4", regular(10, 40))
    with pytest.raises(SourceError, match=r"no annotations 10hz_YouTube_\*.json in"):
        source(tmp_path, annotations=tmp_path).items()
    with pytest.raises(SourceError, match="cannot be read"):
        source(tmp_path, sheet=tmp_path / "other.csv").items()
    for wrong in ({"split": "test"}, {"subset": "maxi"}):
        with pytest.raises(SourceError, match="use one of"):
            source(tmp_path, **wrong)


# --- annotations


def test_annotations_of_every_frame_become_captions():
    rows = [Annotation(i, i + 39, i % 14, f"{i}") for i in range(7000)]
    packs = [pack(rows[i : i + 3000]) for i in (3000, 0, 6000)]
    assert unpack(packs) == rows
    assert max(len(p.data) for p in packs) < 15_000
    captions = captions_of(rows, 100, 50)
    assert [(c.start, c.end) for c in captions] == [
        (max(0, i - 100), min(50, i - 60)) for i in range(61, 150)
    ]  # fmt: skip
    assert captions[0] == Caption(0, 1, "61", 61 % 14)
    assert captions_of(rows, 7039, 10) == ()


def test_everything_before_the_damage_is_used(tmp_path):
    rows = [{**r, "folder": f"val_images/X/{C}"} if 10 <= i < 20 else r for i, r in enumerate(said("train", 300))]
    text = json.dumps(rows, indent=4).encode()
    whole, damage = read_annotations([_file(tmp_path, "a.json", text)], {A})
    assert damage == []
    everything = unpack(whole[A])
    assert [row.first for row in everything] == [*range(10), *range(20, 300)]
    assert everything[-1] == Annotation(299, 338, 299 % 14, 'A "car" {drives} on 大 299.')
    cut = _file(tmp_path, "b.json", text[: len(text) // 2])
    half, damage = read_annotations([cut], {A})
    kept = json.loads(text[: text.rindex(b"\n    }", 0, len(text) // 2) + 6] + b"]")
    assert unpack(half[A]) == everything[: len(kept) - 10]
    assert damage == [Skipped(f"b.json: after row {len(kept)}", "annotation file is damaged")]


def _file(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def test_rows_that_are_no_annotations_are_counted(tmp_path):
    good = said("train", 2)
    bad = [
        {**good[0], "cmd": "2"}, {**good[0], "first_frame": "7.jpg"}, {**good[0], "last_frame": "000000000.png"},
        {**good[1], "last_frame": "000000000.jpg"}, {**good[0], "folder": None}, {"cmd": 1}, [], 5, None,
    ]  # fmt: skip
    packs, damage = read_annotations([_file(tmp_path, "a.json", json.dumps([good[0], *bad, good[1]]).encode())], {A})
    assert [row.first for row in unpack(packs[A])] == [0, 1]
    assert damage == [Skipped("a.json: rows: 9, the first is row 2", "annotation is not understood")]
    for data in (b"", b"{}", b"null", b"\xff\xfe["):
        packs, damage = read_annotations([_file(tmp_path, "b.json", data)], {A})
        assert (dict(packs), damage) == ({}, [Skipped("b.json", "annotation file is no JSON list")])
    with pytest.raises(SourceError, match=r"none\.json cannot be read"):
        read_annotations([tmp_path / "none.json"], {A})
