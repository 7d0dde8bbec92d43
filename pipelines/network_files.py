"""The weight files of the standard scores: what each is for, where it comes from, and whether its bytes are right.

None of them may be passed on with gwm. They lie in the folder `weights` of the data root.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gwm.core import WeightsError
from gwm.pipelines.progress import Ticker
from gwm.shards.files import replacing

BLOCK = 1 << 20  # bytes read at once
TIMEOUT = 30.0  # s without a byte


@dataclass(frozen=True)
class NetworkFile:
    """A public weight file. Its bytes are known by SHA-256 or, where nobody published that, by git's blob id."""

    name: str  # for `gwm weights fetch`
    file: str  # in the folder of weights
    purpose: str
    urls: tuple[str, ...]
    sha256: str = ""  # the first 8 digits, where no more were published
    git_blob: str = ""

    def __post_init__(self) -> None:
        assert self.sha256 or self.git_blob, self.name


@dataclass(frozen=True)
class Digests:
    """What a file's bytes are known by."""

    sha256: str
    git_blob: str  # SHA-1 of "blob ", the size, a zero byte and the bytes


@dataclass(frozen=True)
class FileState:
    """A known file in a folder."""

    name: str
    file: str
    purpose: str
    state: str  # "present", "absent" or "damaged"
    sha256: str  # of what is there


INCEPTION = NetworkFile(
    "inception",
    "pt_inception-2015-12-05-6726825d.pth",
    "FID and KID: TensorFlow's Inception-v3 of 2015-12-05",
    (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
I3D = NetworkFile(
    "i3d",
    "i3d_pretrained_400.pt",
    "FVD as TATS, LVDM, Vista and OpenDWM measure it: I3D on Kinetics-400",
    ("https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",),
    git_blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
)
I3D_TORCHSCRIPT = NetworkFile(
    "i3d-torchscript",
    "i3d_torchscript.pt",
    "FVD as StyleGAN-V measures it: I3D on Kinetics-400, as TorchScript",
    ("https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",),
    git_blob="93daef59c7ae0e9e8f76225521407e60cbafa6aa",
)
ALEXNET = NetworkFile(
    "alexnet",
    "alexnet-owt-7be5be79.pth",
    "LPIPS: torchvision's AlexNet on ImageNet",
    ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",),
    sha256="7be5be79",
)
LPIPS = NetworkFile(
    "lpips",
    "lpips-v0.1-alex.pth",
    "LPIPS: the channel weights of version 0.1 for AlexNet",
    ("https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",),
    sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
)
KNOWN = (INCEPTION, I3D, I3D_TORCHSCRIPT, ALEXNET, LPIPS)


def known_file(name: str) -> NetworkFile:
    """The file that `gwm weights fetch` calls `name`. Raises WeightsError for another name."""
    for known in KNOWN:
        if known.name == name:
            return known
    raise WeightsError(f"no weight file is called {name!r}; known are {', '.join(k.name for k in KNOWN)}, and all")


def digests(data: bytes | Path) -> Digests:
    """The digests of a file, read in blocks, or of bytes."""
    with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as f:
        size = f.seek(0, io.SEEK_END)
        f.seek(0)
        sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        while block := f.read(BLOCK):
            sha256.update(block)
            blob.update(block)
    return Digests(sha256.hexdigest(), blob.hexdigest())


def is_file(known: NetworkFile, found: Digests) -> bool:
    """Whether bytes of these digests are the known file's."""
    return found.sha256.startswith(known.sha256) and found.git_blob.startswith(known.git_blob)


def check_present(known: NetworkFile, store: Path) -> Path:
    """Where the file lies in the folder `store`. Raises WeightsError, with what to do, where it is absent."""
    path = store / known.file
    if not path.is_file():
        raise WeightsError(
            f"no {known.file} in {store}, needed for {known.purpose}; get it with `gwm weights fetch {known.name}`, or "
            f"bring a copy from elsewhere with `gwm weights import FILE` ({known.urls[0]})"
        )
    return path


def read_checked(known: NetworkFile, store: Path) -> tuple[bytes, Digests]:
    """The file's bytes, once they are proven to be the right ones. Raises WeightsError."""
    path = check_present(known, store)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({error.strerror})") from error
    found = digests(data)
    if not is_file(known, found):
        raise WeightsError(
            f"{path} is damaged or another file: {_differs(known, found)}; scores with it would not compare. "
            f"Get it again with `gwm weights fetch {known.name}`"
        )
    return data, found


def load_state(known: NetworkFile, store: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checked file, on the CPU, and its SHA-256. Raises WeightsError.

    Batch norms' counts of training steps are dropped: some tools store them and inference needs none.
    """
    data, found = read_checked(known, store)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        tensors = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    except Exception as error:  # whatever a file that is no pickle of tensors raises
        raise WeightsError(f"{store / known.file} holds no tensors by name ({error})") from error
    if not all(isinstance(x, Tensor) for x in tensors.values()):
        raise WeightsError(f"{store / known.file} holds other things than tensors by name")
    return tensors, found.sha256


def states(store: Path) -> list[FileState]:
    """Every known file, and whether the folder `store` has it."""
    found = []
    for known in KNOWN:
        path = store / known.file
        state, sha256 = "absent", ""
        if path.is_file():
            read = digests(path)
            state, sha256 = "present" if is_file(known, read) else "damaged", read.sha256
        found.append(FileState(known.name, known.file, known.purpose, state, sha256))
    return found


def import_file(path: Path, store: Path) -> FileState:
    """Copy one of the known files, recognised by its bytes, into the folder `store`. Raises WeightsError."""
    try:
        found = digests(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({error.strerror})") from error
    for known in KNOWN:
        if is_file(known, found):
            target = store / known.file
            try:
                store.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(path, temporary)
            except OSError as error:
                raise _unwritable(target, error) from error
            return FileState(known.name, known.file, known.purpose, "present", found.sha256)
    listed = "; ".join(f"{k.file} ({_expected(k)})" for k in KNOWN)
    raise WeightsError(f"{path} with SHA-256 {found.sha256} is none of the known weight files: {listed}")


def fetch(names: Iterable[str], store: Path, silent: bool = False) -> list[FileState]:
    """Download the files called `names` ("all" for every one) into `store`; those already there are left alone.

    Raises WeightsError, after the ones before it are complete, for the first that cannot be had.
    """
    names = list(names)
    files = KNOWN if "all" in names else [known_file(name) for name in names]
    fetched = []
    for known in dict.fromkeys(files):
        path = store / known.file
        found = digests(path) if path.is_file() else None
        if found is None or not is_file(known, found):
            found = _fetch_one(known, path, silent)
        fetched.append(FileState(known.name, known.file, known.purpose, "present", found.sha256))
    return fetched


def _fetch_one(known: NetworkFile, path: Path, silent: bool) -> Digests:
    """Download from the first address that has the right bytes."""
    failures = []
    for url in known.urls:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                _download(url, temporary, known.name, silent)
                found = digests(temporary)
                if not is_file(known, found):
                    raise WeightsError(
                        f"{temporary.stat().st_size:,} bytes came that are not the file: {_differs(known, found)}"
                    )
            return found
        except urllib.error.HTTPError as error:
            failures.append(f"{url}: the server answered {error.code} {error.reason}")
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
            failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
        except WeightsError as error:
            failures.append(f"{url}: {error}")
        except OSError as error:
            raise _unwritable(path, error) from error
    raise WeightsError(
        f"cannot fetch {known.file}: {'; '.join(failures)}. Download it elsewhere and bring it with "
        "`gwm weights import FILE`"
    )


def _download(url: str, path: Path, name: str, silent: bool) -> None:
    """Write what `url` sends to `path`. Raises WeightsError where it stops early, else urllib's errors and OSError."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = -(-int(length) // BLOCK) if length else None
        with Ticker(f"{name} (MiB)", total, silent=silent) as ticker:
            while block := response.read(BLOCK):
                file.write(block)
                ticker.advance()
        if length and file.tell() != int(length):
            raise WeightsError(f"only {file.tell():,} of {int(length):,} bytes came; try again")


def _unwritable(path: Path, error: OSError) -> WeightsError:
    remedy = "make space" if error.errno == errno.ENOSPC else "the folder of weights lies in $GWM_DATA, else in ./data"
    return WeightsError(f"cannot write {path} ({error.strerror or error}); {remedy}")


def _expected(known: NetworkFile) -> str:
    return f"SHA-256 {known.sha256[:16]}…" if known.sha256 else f"git blob {known.git_blob}"


def _differs(known: NetworkFile, found: Digests) -> str:
    if known.sha256:
        return f"SHA-256 {found.sha256[:16]}… instead of {known.sha256[:16]}…"
    return f"git blob {found.git_blob} instead of {known.git_blob}"
