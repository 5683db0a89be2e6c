"""Files to Image and back. The only place where axes and directions are converted: inside, all is LPS and (z, y, x)."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..contracts import Image
from .kspace import NAME as K_SPACE
from .kspace import RawKSpace
from .scan import Listing, Oddity, Scan, UnreadableError
from .sinogram import COUNTS, SINOGRAM, RawSinogram

__all__ = [
    "COUNTS",
    "K_SPACE",
    "RAW",
    "SINOGRAM",
    "VOLUMES",
    "Listing",
    "Oddity",
    "RawKSpace",
    "RawSinogram",
    "Scan",
    "UnreadableError",
    "by_name",
    "read",
    "read_image",
    "read_raw",
    "scan_folder",
    "stem",
    "walked",
    "write_nifti",
]

VOLUMES = ("nifti", "metaimage")  # formats whose files are images with a place, and say nothing of patients
RAW = (K_SPACE, SINOGRAM, COUNTS)  # formats of what was measured before there was an image
_TEXT = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".bval", ".bvec", ".html", ".pdf", ".rst")
_OTHER = {  # ending -> what it is; each comes with a job of its own
    ".npy": "a bare array without geometry or meaning",
    ".h5": "an HDF5 file (raw k-space?)",
    ".dat": "raw scanner data",
    ".th": "network weights",
    ".pt": "network weights",
    ".safetensors": "network weights",
    ".nrrd": "an NRRD file",
}


def scan_folder(folder: Path) -> Listing:
    """Every file below a folder (or one file): scans that can be read, and one line about each other file.

    Headers only; raises UnreadableError when the folder does not exist or is empty.
    """
    from . import dicom

    if not folder.exists():
        raise UnreadableError(f"{folder} does not exist.", "Give the folder that holds the scans: --data DIR.")
    scans: list[Scan] = []
    oddities: list[Oddity] = []
    dicom_files: list[Path] = []
    count = 0
    for path in walked(folder, oddities):
        count += 1
        try:
            understood = scans_in(path)
        except UnreadableError as error:
            oddities.append(Oddity(str(path), error.fault, error.next_step))
            continue
        if understood is None:
            dicom_files.append(path)
            continue
        scans += understood[0]
        oddities += understood[1]
    if count == 0 and not oddities:
        raise UnreadableError(f"{folder} is empty.", "Give the folder that holds the scans: --data DIR.")
    found, odd = dicom.listing(dicom_files)
    return Listing(tuple(scans + found), tuple(oddities + odd))


def scans_in(path: Path) -> tuple[list[Scan], list[Oddity]] | None:
    """What one file holds, or None when it is DICOM, whose series are understood as wholes; raises UnreadableError."""
    from . import dicom, explicit, kspace, metaimage, nifti, planning, raster, sinogram

    with _told(path):
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableError("is a pipe, a socket or a device, not a file.", "Leave it out.")
        if state.st_size == 0:
            raise UnreadableError("is empty.", "Copy it again.")
        lowered = path.name.lower()
        if lowered.endswith(nifti.ENDINGS):
            if lowered.endswith(".img") and path.with_suffix(".hdr").exists():
                return [], []  # the pair is read through its header
            return nifti.listing(path)
        if lowered.endswith(metaimage.ENDINGS):
            return metaimage.listing(path)
        if lowered.endswith(metaimage.VOXELS) and path.with_suffix(".mhd").exists():
            return [], []  # the pair is read through its header
        if planning.is_plan(path):
            return planning.listing(path)
        if lowered.endswith(kspace.ENDINGS) and (raw := kspace.listing(path)) is not None:
            return raw
        if lowered.endswith(sinogram.ENDINGS) and (raw := sinogram.listing(path)) is not None:
            return raw
        if lowered.endswith(raster.ENDINGS):
            return raster.listing(path)
        if explicit.header(path) is None and not dicom.looks_like(path):
            return [], [_other(path)]
        return None


@contextmanager
def _told(path: Path, name: str = "") -> Iterator[None]:
    """Whatever fails inside becomes an UnreadableError that says what to do: one odd file takes nothing else down."""
    try:
        yield
    except UnreadableError as error:
        raise (error.of(name) if name else error) from error.__cause__
    except FileNotFoundError as error:
        what = "is a link to nothing." if path.is_symlink() else "is gone."
        raise UnreadableError(what, "Copy what it stood for, or leave it out.", name) from error
    except MemoryError as error:
        raise UnreadableError("does not fit into memory.", "Split it, or use a machine with more.", name) from error
    except OSError as error:
        raise UnreadableError(f"cannot be opened ({error.strerror}).", "Check its permissions.", name) from error
    except Exception as error:  # readers of damaged files raise every kind
        words = (str(error).splitlines() or [""])[0][:80]
        raise UnreadableError(
            f"cannot be understood ({type(error).__name__}: {words}).", "Export or convert it again.", name
        ) from error


def by_name(folder: Path, scans: Iterable[Scan]) -> dict[str, Scan]:
    """Path below the folder -> scan; of a file with several images each is named FILE#MEMBER."""
    scans = list(scans)
    several = {files for files, n in Counter(s.files for s in scans).items() if n > 1}
    names = [str(s.files[0].relative_to(folder)) if folder.is_dir() else s.files[0].name for s in scans]
    return {f"{n}#{s.member}" if s.files in several else n: s for n, s in zip(names, scans, strict=True)}


def stem(name: str) -> str:
    """A name as `by_name` gives it, without the ending of its format: a.nii.gz and a.png are both a."""
    from . import metaimage, nifti, raster

    file, hash_, member = name.partition("#")
    fitting = [
        e for e in (*nifti.ENDINGS, *metaimage.ENDINGS, *raster.ENDINGS, ".npy", ".dcm") if file.lower().endswith(e)
    ]
    return f"{file[: len(file) - max(map(len, fitting), default=0)]}{hash_}{member}"


def read(scan: Scan) -> Image:
    """The pixels of a scan; raises UnreadableError naming the file when they are damaged or not finite."""
    from . import dicom, metaimage, nifti, planning, raster
    from .radiotherapy import doses, structures

    if scan.format in RAW:
        recipe = {K_SPACE: "mr_reconstruction", SINOGRAM: "ct_sparse_view", COUNTS: "pet_low_count"}[scan.format]
        raise UnreadableError("is raw data, no image.", f"Reconstruct it: recipes/{recipe}.yaml", scan.name)
    with _told(scan.files[0], scan.name):
        readers = {
            "nifti": nifti.read, "metaimage": metaimage.read, "dicom": dicom.read, "raster": raster.read,
            "planning": planning.read,
            "contours": structures.read, "dose": doses.read,
        }  # fmt: skip
        return readers[scan.format](scan)


def read_raw(scan: Scan) -> RawKSpace | RawSinogram:
    """The samples of a raw scan; raises UnreadableError naming the file."""
    from . import kspace, sinogram

    with _told(scan.files[0], scan.name):
        return kspace.read(scan) if scan.format == K_SPACE else sinogram.read(scan)


def read_image(path: str | Path) -> Image:
    """The one image in a file or in a folder with one DICOM series; raises UnreadableError when there are more."""
    found = scan_folder(Path(path))
    if len(found.scans) != 1:
        reason = f" ({found.oddities[0]})" if found.oddities and not found.scans else ""
        raise UnreadableError(
            f"{path} holds {len(found.scans)} images, expected one{reason}.", "Name one file or one series."
        )
    return read(found.scans[0])


def write_nifti(image: Image, path: str | Path) -> None:
    """Write on the image's own grid; the folder is made when needed."""
    from . import nifti

    nifti.write(image, Path(path))


def walked(folder: Path, oddities: list[Oddity]) -> Iterator[Path]:
    """Every file below, in the order of names, links followed; what starts with a dot is left alone.

    A folder that may not be opened is one oddity, and so is one that was walked before under another name.
    """
    if not folder.is_dir():
        yield folder
        return

    def closed(error: OSError) -> None:
        step = "Open it to this user, or leave it out."
        oddities.append(Oddity(str(error.filename), f"cannot be opened ({error.strerror}).", step))

    seen: dict[tuple[int, int], str] = {}
    for root, folders, names in os.walk(folder, followlinks=True, onerror=closed):
        state = os.stat(root)
        first = seen.setdefault((state.st_dev, state.st_ino), root)
        if first != root:
            text = f"is a link to {first}, which was read already; not read again."
            oddities.append(Oddity(root, text, "Nothing to do.", "warning"))
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(root, name)


def _other(path: Path) -> Oddity:
    ending = path.suffix.lower()
    if ending in _TEXT or path.stem.upper() in ("LICENSE", "README", "NOTICE", "CHANGES"):
        return Oddity(str(path), "is text, not an image.", "Nothing to do.", "note")
    what = _OTHER.get(ending, f"a file of unknown kind ({ending or 'no ending'})")
    return Oddity(str(path), f"is {what}.", "Convert it to NIfTI or DICOM to use it.", "fault")
