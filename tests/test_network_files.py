"""The weight files of the standard scores: fetched from a server on this machine, imported, checked, listed."""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from toy_networks import install
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import WeightsError
from gwm.pipelines import network_files
from gwm.pipelines.network_files import (
    KNOWN,
    NetworkFile,
    digests,
    fetch,
    import_file,
    known_file,
    load_state,
    read_checked,
    states,
)

DATA = bytes(range(256)) * 9000  # 2.3 MB: more than two blocks


class Files(BaseHTTPRequestHandler):
    """/good, /other and /short; /moved leads to /good; nothing else."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        body = {"/good": DATA, "/other": DATA[::-1], "/short": DATA[:1_500_000]}.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def toy(*urls: str, sha256: str = hashlib.sha256(DATA).hexdigest(), git_blob: str = "") -> NetworkFile:
    return NetworkFile("toy", "toy.pth", "testing", urls, sha256, git_blob)


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch):
    """Make these the known files."""
    return lambda *known: monkeypatch.setattr(network_files, "KNOWN", known)


def nothing_left(store: Path) -> bool:
    return list(store.iterdir()) == []


def test_the_records_say_how_their_bytes_are_known() -> None:
    assert len({k.name for k in KNOWN}) == len({k.file for k in KNOWN}) == len(KNOWN) == 5
    for known in KNOWN:
        assert len(known.sha256) in (0, 8, 64), known.name
        assert len(known.git_blob) in (0, 40), known.name
        assert len(known.sha256) >= 8 or known.git_blob, known.name
        assert known.urls, known.name
        assert all(url.startswith("https://") for url in known.urls), known.name
        assert known.purpose, known.name
    with pytest.raises(AssertionError):
        NetworkFile("x", "x", "x", ("https://x",))


def test_git_s_blob_id_is_git_s(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(DATA)
    found = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True)
    assert digests(path).git_blob == digests(DATA).git_blob == found.stdout.strip()
    assert digests(path).sha256 == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("route", ["good", "moved"])
def test_fetch(server: str, know, tmp_path: Path, route: str) -> None:
    know(toy(f"{server}/{route}"))
    (state,) = fetch(["toy"], tmp_path / "new" / "weights", silent=True)
    assert (state.state, state.sha256) == ("present", hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "new" / "weights" / "toy.pth").read_bytes() == DATA
    assert states(tmp_path / "new" / "weights") == [state]


def test_fetch_by_git_s_blob_id_or_by_eight_digits(server: str, know, tmp_path: Path) -> None:
    whole = digests(DATA)
    for i, known in enumerate((
        toy(f"{server}/good", sha256="", git_blob=whole.git_blob), toy(f"{server}/good", sha256=whole.sha256[:8])
    )):  # fmt: skip
        know(known)
        assert fetch(["all"], tmp_path / str(i), silent=True)[0].sha256 == whole.sha256
        know(toy(f"{server}/other", sha256=known.sha256, git_blob=known.git_blob))
        with pytest.raises(WeightsError, match="that are not the file"):
            fetch(["all"], tmp_path / f"{i}-other", silent=True)
        assert nothing_left(tmp_path / f"{i}-other")


def test_the_second_address_helps(server: str, know, tmp_path: Path) -> None:
    know(toy(f"{server}/none", f"{server}/other", f"{server}/good"))
    assert fetch(["toy"], tmp_path, silent=True)[0].state == "present"
    assert [p.name for p in tmp_path.iterdir()] == ["toy.pth"]


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(server: str, know, tmp_path: Path) -> None:
    know(toy("http://127.0.0.1:1/"))
    (tmp_path / "toy.pth").write_bytes(DATA)
    assert fetch(["toy", "all"], tmp_path, silent=True)[0].state == "present"
    (tmp_path / "toy.pth").write_bytes(DATA[1:])
    assert states(tmp_path)[0].state == "damaged"
    with pytest.raises(WeightsError, match="cannot fetch"):
        fetch(["toy"], tmp_path, silent=True)
    assert (tmp_path / "toy.pth").read_bytes() == DATA[1:]  # a failure takes nothing away
    know(toy(f"{server}/good"))
    fetch(["toy"], tmp_path, silent=True)
    assert (tmp_path / "toy.pth").read_bytes() == DATA


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (
            "none",
            r"/none: the server answered 404 Not Found\. Download it elsewhere and bring it with `gwm weights imp",
        ),
        ("other", r"/other: 2,304,000 bytes came that are not the file: SHA-256 \w{16}… instead of"),
        ("short", r"/short: only 1,500,000 of 2,304,000 bytes came; try again"),
    ],
)
def test_what_a_server_can_do_wrong(server: str, know, tmp_path: Path, route: str, message: str) -> None:
    know(toy(f"{server}/{route}"))
    with pytest.raises(WeightsError, match=message):
        fetch(["toy"], tmp_path, silent=True)
    assert nothing_left(tmp_path)


def test_offline(know, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        know(toy(f"http://127.0.0.1:{closed.getsockname()[1]}/x"))
        with pytest.raises(
            WeightsError, match=r"cannot fetch toy\.pth: http://127.*: .*refused.*`gwm weights import FILE`"
        ):
            fetch(["toy"], tmp_path, silent=True)
    know(toy("http://host.invalid/x"))
    with pytest.raises(WeightsError, match=r"cannot fetch toy\.pth: http://host\.invalid/x: \S"):
        fetch(["toy"], tmp_path, silent=True)
    assert nothing_left(tmp_path)


def test_a_full_disk_and_a_folder_that_cannot_be(server: str, know, tmp_path: Path, monkeypatch) -> None:
    know(toy(f"{server}/good"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(network_files, "_download", full)
        with pytest.raises(WeightsError, match=r"cannot write .*toy\.pth \(No space left on device\); make space"):
            fetch(["toy"], tmp_path / "store", silent=True)
    assert nothing_left(tmp_path / "store")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match=r"cannot write .*the folder of weights lies in \$GWM_DATA"):
        fetch(["toy"], tmp_path / "file", silent=True)


def test_import_recognises_a_file_by_its_bytes(know, tmp_path: Path) -> None:
    know(toy("https://x"), NetworkFile("other", "other.pth", "testing", ("https://x",), sha256="0" * 8))
    (tmp_path / "any name").write_bytes(DATA)
    state = import_file(tmp_path / "any name", tmp_path / "store")
    assert (state.name, state.state) == ("toy", "present")
    assert (tmp_path / "store" / "toy.pth").read_bytes() == DATA
    (tmp_path / "unknown").write_bytes(DATA[1:])
    with pytest.raises(WeightsError, match=r"unknown with SHA-256 \w{64} is none of .*toy\.pth \(SHA-256 .*other\.pth"):
        import_file(tmp_path / "unknown", tmp_path / "store")
    with pytest.raises(WeightsError, match="cannot read"):
        import_file(tmp_path / "none", tmp_path / "store")


def test_an_absent_and_a_damaged_file_say_what_to_do(know, tmp_path: Path) -> None:
    known = toy("https://example.org/toy.pth")
    with pytest.raises(WeightsError) as error:
        read_checked(known, tmp_path)
    for part in ("no toy.pth in", "needed for testing", "`gwm weights fetch toy`", "`gwm weights import FILE`"):
        assert part in str(error.value)
    (tmp_path / "toy.pth").write_bytes(DATA[:-1])
    with pytest.raises(WeightsError, match=r"toy\.pth is damaged or another file: SHA-256 .*would not compare"):
        read_checked(known, tmp_path)
    with pytest.raises(WeightsError, match="no weight file is called 'fid'; known are inception, i3d, "):
        known_file("fid")


def test_nothing_but_tensors_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even of a file with the right hash: a pickle that would run code is refused by torch's safe loader."""

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    install(monkeypatch, tmp_path / "store", "LPIPS", {"lin0": Evil()})
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_state(network_files.LPIPS, tmp_path / "store")
    assert not (tmp_path / "ran").exists()
    install(monkeypatch, tmp_path / "store", "LPIPS", {"lin0": 3})
    with pytest.raises(WeightsError, match="holds other things than tensors by name"):
        load_state(network_files.LPIPS, tmp_path / "store")
    install(monkeypatch, tmp_path / "store", "LPIPS", {"a": torch.ones(2), "bn.num_batches_tracked": torch.tensor(3)})
    tensors, sha256 = load_state(network_files.LPIPS, tmp_path / "store")
    assert list(tensors) == ["a"]
    assert sha256 == digests(tmp_path / "store" / network_files.LPIPS.file).sha256


@pytest.mark.usefixtures("elsewhere")
def test_the_command_line(server: str, know, tmp_path: Path) -> None:
    def gwm(*arguments: str):
        return CliRunner().invoke(app, ["weights", *arguments])

    know(toy(f"{server}/good"))
    (listed,) = json.loads(gwm("list", "--json").stdout)["files"]
    assert (listed["name"], listed["purpose"], listed["state"], listed["sha256"]) == ("toy", "testing", "absent", "")
    assert "gwm weights fetch toy" in gwm("list").stdout
    fetched = json.loads(gwm("fetch", "all", "--json").stdout)
    assert (fetched["folder"], fetched["files"][0]["state"]) == ("data/weights", "present")
    assert (tmp_path / "data" / "weights" / "toy.pth").read_bytes() == DATA
    (tmp_path / "copy").write_bytes(DATA)
    (tmp_path / "data" / "weights" / "toy.pth").write_bytes(b"")
    assert "damaged: toy.pth" in gwm("list").stdout
    assert json.loads(gwm("import", "copy", "--json").stdout)["files"][0]["name"] == "toy"
    assert "present: toy.pth" in gwm("list").stdout
    for arguments, message in (
        (("fetch", "fid"), "no weight file is called 'fid'"),
        (("import", "copy", "-o", "there"), "leave -o out"),
    ):
        refused = gwm(*arguments)
        assert refused.exit_code == 1
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
