"""Every real file is either read or answered by one line, and which is which stays known."""

from pathlib import Path

import pytest

from fabrica import io

UNREADABLE_DICOM = {
    "highdicom/seg_image_sm_dots_tiled_full.dcm", "highdicom/sm_image.dcm", "highdicom/sr_document.dcm",
     "highdicom/seg_image_ct_true_fractional.dcm", "malformed/badVR.dcm", "malformed/empty_charset_LEI.dcm", "malformed/nested_priv_SQ.dcm",
    "malformed/no_meta.dcm", "malformed/rtplan_truncated.dcm", "pydicom_data/emri_small_jpeg_2k_lossless_too_short.dcm",
    "pydicom_data/liver_deflate.dcm",
}  # fmt: skip


def _outcome(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Files read with their shapes, and files answered with their fault; both relative."""
    found = io.scan_folder(folder)
    read, answered = {}, {}
    for oddity in found.oddities:
        if oddity.severity != "warning":
            answered[str(Path(oddity.file.split("#")[0]).relative_to(folder))] = oddity.fault
    for scan in found.scans:
        names = [str(f.relative_to(folder)) for f in scan.files]
        try:
            image = io.read(scan)
        except io.UnreadableError as error:
            answered |= dict.fromkeys(names, error.fault)
            continue
        read |= dict.fromkeys(names, tuple(image.data.shape))
    return read, answered


def test_dicom_samples(real_data: Path) -> None:
    folder = real_data / "dicom_samples"
    read, answered = _outcome(folder)
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    duplicates = files - read.keys() - answered.keys()
    assert all(any(w in f for w in ("CT1_UNC", "bad_meta", "ct_image", "MR_truncated")) for f in duplicates), (
        duplicates
    )  # one image, thrice
    assert {f for f in answered if not f.endswith("LICENSE")} == UNREADABLE_DICOM
    assert read["pydicom_data/emri_small_RLE.dcm"] == read["pydicom_data/emri_small_jpeg_2k_lossless.dcm"]
    assert read["enhanced_mr/6_1.dcm"] == (1, 6, 64, 64)


@pytest.mark.parametrize("name", ["dicomparser", "enhanced_mr", "highdicom", "malformed", "pydicom_data", "pynetdicom"])
def test_each_dicom_folder_alone(real_data: Path, name: str) -> None:
    read, answered = _outcome(real_data / "dicom_samples" / name)
    assert read or name == "malformed"
    assert all(fault for fault in answered.values())


def test_nifti_and_other_kinds(real_data: Path) -> None:
    for name in ("ct", "mri_spine", "cine/spine_fmri_4d", "longitudinal/ms_mri"):
        read, answered = _outcome(real_data / name)
        assert all(not f.endswith(".nii.gz") for f in answered), answered
        assert read
    _, answered = _outcome(real_data / "kspace")
    assert len([f for f in answered if not f.endswith("LICENSE")]) == 4
    _, answered = _outcome(real_data / "radiotherapy" / "dicom_rt")
    known = (
        "text",
        "relative units",
        "not among these files",
        "beyond the slices",
        "whose structure set is not here",
        "749",
    )
    assert all(any(words in fault for words in known) for fault in answered.values()), answered
    _, answered = _outcome(real_data / "weights")
    assert all("weights" in f or "text" in f for f in answered.values())


def test_functional_series_is_in_order(real_data: Path) -> None:
    (scan,) = io.scan_folder(real_data / "cine" / "fmri_bold_dicom").scans
    assert scan.shape == (1, 10, 35, 80, 80)
    image = io.read(scan)
    assert image.times is not None
    assert image.times.tolist() == pytest.approx([2.0 * i for i in range(10)], abs=1e-3)
    jumps = (
        (image.data[:, 1:] - image.data[:, :-1]).abs().mean(),
        (image.data[:, :, 1:] - image.data[:, :, :-1]).abs().mean(),
    )
    assert jumps[0] < 0.3 * jumps[1]  # moments resemble each other far more than neighbouring slices


def test_plans_are_read(real_data: Path) -> None:
    found = io.scan_folder(real_data / "radiotherapy" / "openkbp" / "valid" / "pt_201.npz")
    assert {"CT", "dose", "possible_dose", "PTV70", "SpinalCord"} <= {s.modality for s in found.scans}
    assert all(s.unit == {"CT": "HU", "dose": "Gy"}.get(s.modality, "") for s in found.scans)
