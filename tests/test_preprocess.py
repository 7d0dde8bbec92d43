"""The preprocessing pipeline: order, workers, skips."""

import json
from dataclasses import dataclass

import pytest
from conftest import tiny_chunk

from gwm.pipelines.preprocess import preprocess
from gwm.shards import ShardError, SourceError
from gwm.shards.schema import Skipped


@dataclass(frozen=True)
class Toy:
    """Items 0..n-1; item 1 is bad, item 2 loses a part."""

    n: int = 5
    name = "toy"

    def items(self):
        return list(range(self.n))

    def settings(self):
        return {"n": self.n}

    def chunks(self, item):
        if item == 1:
            raise SourceError("cannot be read")
        if item == 2:
            yield Skipped("2", "half of it is gone")
        yield tiny_chunk(item)


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        preprocess(Toy(), tmp_path / str(workers), workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_bad_items_are_counted_and_named(tmp_path):
    result = preprocess(Toy(), tmp_path / "out")
    assert result.samples == 4
    assert result.frames == 120
    expected = [{"item": "1", "cause": "cannot be read"}, {"item": "2", "cause": "half of it is gone"}]
    assert result.skipped == expected
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["skipped"] == expected


def test_strict_stops_and_leaves_nothing(tmp_path):
    with pytest.raises(SourceError, match="1: cannot be read"):
        preprocess(Toy(), tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists() or not contents(tmp_path / "out")


def test_nothing_but_bad_items_is_an_error(tmp_path):
    @dataclass(frozen=True)
    class Bad(Toy):
        def items(self):
            return [1]

    with pytest.raises(ShardError, match="cannot be read"):
        preprocess(Bad(), tmp_path / "out")
