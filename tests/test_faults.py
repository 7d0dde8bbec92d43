"""What goes wrong with disks and files: said once, clearly, and nothing lost or half-written."""

import io
import os
import resource
import signal
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_preprocess import contents
from test_waymo_source import frame, write_v1
from test_waymo_source import source as waymo_source
from toy_shards import toy

from gwm.pipelines.preprocess import preprocess
from gwm.shards import ShardError, SourceError
from gwm.shards.reader import read_chunk
from gwm.shards.tar import tar_header
from gwm.shards.tfrecord import frame_record
from gwm.shards.verify import verify
from gwm.shards.waymo import v1
from gwm.shards.wire import put_bytes, put_varint


def test_a_full_disk_keeps_the_finished_shards_and_the_same_command_goes_on(tmp_path):
    """A real limit of the system, met in the middle of a file: 60 kB for each."""
    big = waymo_source(tmp_path / "in", size=None)
    write_v1(tmp_path / "in", [frame(i) for i in range(8)], "1_0_000_20_000")
    write_v1(tmp_path / "in", [frame(i, name="2_0_000_20_000") for i in range(60)], "2_0_000_20_000")
    preprocess(big, tmp_path / "whole", workers=lambda do, tasks: map(do, tasks))
    out = tmp_path / "out"
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        try:
            preprocess(big, out)
        except ShardError as error:
            os.write(write_end, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read_end, 10_000).decode()
    assert "cannot write into" in said
    assert "finished shards are kept, run the same command again" in said
    assert not [path for path in out.rglob("*") if ".tmp." in path.name]
    preprocess(big, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_member_that_points_elsewhere_is_found_and_never_followed(tmp_path):
    """A tar may hold a link to /etc/passwd: shards are read by offset, nothing is ever extracted."""
    dataset = toy(tmp_path / "out", [5])
    row = dataset.row(0)
    file = dataset.path / row.shard
    data = bytearray(file.read_bytes())
    info = tarfile.TarInfo(row.members()[1].name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    at = row.members()[1].offset - tarfile.BLOCKSIZE
    data[at : at + tarfile.BLOCKSIZE] = info.tobuf(tarfile.USTAR_FORMAT)
    file.write_bytes(data)
    problems = verify(dataset.path).problems
    assert any(row.members()[1].name in problem and "header" in problem for problem in problems)
    assert read_chunk(dataset, 0).frames.shape[0] == 5  # the picture is the one that was written there
    outside = tar_header("../../outside.jpg", 3)
    data[at : at + tarfile.BLOCKSIZE] = outside
    file.write_bytes(data)
    assert any("header" in problem for problem in verify(dataset.path).problems)


def test_a_link_that_leads_nowhere_is_reported(tmp_path):
    write_v1(tmp_path / "in", [frame(i) for i in range(6)])
    (tmp_path / "in" / "segment-9_0_000_20_000.tfrecord").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="9_0_000_20_000: cannot be read: No such file"):
        preprocess(waymo_source(tmp_path / "in"), tmp_path / "out", strict=True)


MESSAGES = st.recursive(
    st.binary(max_size=20),
    lambda inner: st.lists(st.tuples(st.integers(1, 11), inner), max_size=4).map(
        lambda parts: b"".join(put_bytes(number, data) for number, data in parts) + put_varint(2, 7)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=2000)
@given(MESSAGES, st.binary(max_size=30), st.integers(0, 60))
def test_no_bytes_make_the_decoder_do_anything_but_read_or_refuse(message, tail, cut):
    """In bounded memory: a length that a message claims is never allocated."""
    for data in (frame_record(message), frame_record(message)[:cut] + tail, tail):
        tracemalloc.start()
        list(v1.read_frames(io.BytesIO(data), "x"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000
