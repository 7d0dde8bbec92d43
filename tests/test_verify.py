"""What `verify` finds: every flipped byte, by shard and member."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_shards import flip, make_chunk, toy, write

from gwm.shards import ShardError
from gwm.shards.index import open_dataset
from gwm.shards.verify import verify


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"no dataset.json"):
        verify(tmp_path)
    dataset = toy(tmp_path / "out")
    file = dataset.path / "dataset.json"
    text = file.read_text()
    file.write_text(text.replace('"schema_version": 3', '"schema_version": 99'))
    with pytest.raises(ShardError, match="schema version 99, this gwm reads 3"):
        open_dataset(dataset.path)
    for damaged in (text[:-20], "[]", text.replace('"shards"', '"shrads"')):
        file.write_text(damaged)
        with pytest.raises(ShardError, match=r"dataset.json"):
            open_dataset(dataset.path)


def test_verify_passes_and_counts(tmp_path: Path) -> None:
    report = verify(write(tmp_path / "out", [make_chunk(i, 4, ["front", "back"]) for i in range(3)]))
    assert (report.ok, report.samples, report.frames) == (True, 3, 12)
    assert report.bytes == (tmp_path / "out" / "toy-000000.tar").stat().st_size


def test_every_kind_of_flipped_byte_is_found_and_its_member_named(tmp_path: Path) -> None:
    """Also a byte in the JPEG's entropy-coded data, which may well decode: the CRC-32 in the index finds it. In the
    header each of the 512 bytes, as tarfile's checksum leaves some of them out."""
    dataset = open_dataset(write(tmp_path / "out", [make_chunk(i, 3) for i in range(3)]))
    shard, row = dataset.path / "toy-000000.tar", dataset.row(1)
    good = shard.read_bytes()
    (member,) = [m for m in row.members() if m.name.endswith("front.001.jpg")]
    padding = member.offset + member.size if member.size % 512 else None
    header = [member.offset - 512 + i for i in (0, 99, 100, 124, 148, 155, 156, 257, 265, 400, 511)]
    data = [member.offset, member.offset + member.size // 2, member.offset + member.size - 1]
    for at in header + data + ([padding] if padding else []):
        flip(shard, at)
        problems = verify(dataset.path).problems
        assert problems[0] == "toy-000000.tar: SHA-256 differs from dataset.json", at
        assert len(problems) == 2, at
        assert problems[1].startswith(f"toy-000000.tar: {member.name}: "), at
        shard.write_bytes(good)
    for at in (row.json_offset + i for i in (0, 30, row.json_size // 2, row.json_size - 1)):
        flip(shard, at)
        problems = verify(dataset.path).problems
        assert len(problems) == 2
        assert problems[1].startswith(f"toy-000000.tar: {row.key}.json: CRC-32 differs")
        shard.write_bytes(good)
    flip(shard, len(good) - 1)
    assert verify(dataset.path).problems == [
        "toy-000000.tar: SHA-256 differs from dataset.json; the damage lies outside what the index describes"
    ]


def test_any_flipped_byte_of_a_shard_is_found(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "out", [make_chunk(i, 2) for i in range(2)]))
    shard = dataset.path / "toy-000000.tar"
    good = shard.read_bytes()
    for at in np.random.default_rng(0).integers(len(good), size=60):
        flip(shard, int(at))
        assert not verify(dataset.path).ok
        shard.write_bytes(good)
    assert verify(dataset.path).ok


def test_a_flipped_byte_of_the_index_is_found(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    index = dataset.path / "index.parquet"
    good = index.read_bytes()
    for at in np.linspace(0, len(good) - 1, 80).astype(int):
        flip(index, int(at))
        try:
            found = " ".join(verify(dataset.path).problems)
        except ShardError as error:
            found = str(error)
        assert "index.parquet" in found, at
        index.write_bytes(good)


def test_truncated_and_missing_shards(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", (4,) * 6)
    shard = dataset.path / "toy-000001.tar"
    good = shard.read_bytes()
    shard.write_bytes(good[: dataset.row(3).json_offset])
    problems = verify(dataset.path).problems
    assert problems[0] == f"toy-000001.tar: {dataset.row(3).json_offset} bytes instead of {len(good)}"
    assert "sample chunk-0003: " in problems[1]
    assert "past the end of the file" in problems[1]
    assert len(problems) == 2
    with pytest.raises(ShardError, match=r"toy-000001.tar has"):
        open_dataset(dataset.path)
    shard.unlink()
    assert verify(dataset.path).problems == ["toy-000001.tar: missing"]
    with pytest.raises(ShardError, match=r"toy-000001.tar is missing"):
        open_dataset(dataset.path)
