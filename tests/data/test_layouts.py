"""Public data sets recognised by their names: made-up twins of each, read as the set means, and others left alone."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image as Picture

from fabrica.data.cohort import find
from fabrica.data.inspection import lines
from fabrica.data.layouts import layouts, recognised

SETS = {one.name: one for one in layouts()}
# name -> (paths of a twin, (patient, visit, contrast) of the first)
TWINS: dict[str, tuple[list[str], tuple[str, str, str]]] = {
    "brats-2018-2020": (["A/BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz", "A/BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz"], ("BraTS20_Training_001", "", "T1ce")),
    "brats-2021": (["BraTS2021_00000/BraTS2021_00000_flair.nii.gz", "BraTS2021_00000/BraTS2021_00000_seg.nii.gz"], ("BraTS2021_00000", "", "FLAIR")),
    "brats-2023": (["BraTS-GLI-00002-001/BraTS-GLI-00002-001-t1c.nii.gz", "BraTS-GLI-00002-001/BraTS-GLI-00002-001-seg.nii.gz"], ("BraTS-GLI-00002", "001", "T1ce")),
    "msd": (["Task09_Spleen/imagesTr/spleen_10.nii.gz", "Task09_Spleen/labelsTr/spleen_10.nii.gz"], ("spleen_10", "", "image")),
    "ixi": (["IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828-PD.nii.gz"], ("IXI002", "", "T1w")),
    "fastmri-knee": (["multicoil_val/file1000000.h5", "multicoil_val/file1000007.h5"], ("file1000000", "", "kspace")),
    "fastmri-brain": (["multicoil_train/file_brain_AXT2_200_2000001.h5", "multicoil_train/file_brain_AXT1_201_6002717.h5"], ("file_brain_AXT2_200_2000001", "", "kspace")),
    "synthrad-2023": (["Task1/brain/1BA001/mr.nii.gz", "Task1/brain/1BA001/ct.nii.gz"], ("1BA001", "", "MR")),
    "synthrad-2025": (["AB/1ABA005/mr.mha", "AB/1ABA005/ct.mha"], ("1ABA005", "", "MR")),
    "openkbp": (["train-pats/pt_1/ct.csv", "train-pats/pt_1/dose.csv"], ("pt_1", "", "planning")),
    "autopet": (["PETCT_0011f3deaf/03-23-2003-NA-PET-CT-26842/SUV.nii.gz", "PETCT_0011f3deaf/03-23-2003-NA-PET-CT-26842/CTres.nii.gz"], ("PETCT_0011f3deaf", "03-23-2003-NA-PET-CT-26842", "PET")),
    "acdc": (["training/patient001/patient001_frame01.nii.gz", "training/patient001/patient001_frame01_gt.nii.gz"], ("patient001", "frame01", "cine_frame")),
    "mms": (["Labeled/A0S9V9/A0S9V9_sa.nii.gz", "Labeled/A0S9V9/A0S9V9_sa_gt.nii.gz"], ("A0S9V9", "", "cine")),
    "totalsegmentator": (["s0000/ct.nii.gz", "s0000/segmentations/liver.nii.gz"], ("s0000", "", "CT")),
    "totalsegmentator-mr": (["s0001/mri.nii.gz", "s0001/segmentations/liver.nii.gz"], ("s0001", "", "MR")),
    "lidc": (["LIDC-IDRI-0001/01-01-2000-30178/3000566.000000-03192/1-001.dcm", "LIDC-IDRI-0002/01-01-2000-98329/3000522.000000-04919/1-001.dcm"], ("LIDC-IDRI-0001", "", "")),
    "luna16": (["subset0/1.3.6.1.4.1.14519.5.2.1.6279.6001.105756658031515062000744821260.mhd", "subset1/1.3.6.1.4.1.14519.5.2.1.6279.6001.108197895896446896160048741492.mhd"], ("1.3.6.1.4.1.14519.5.2.1.6279.6001.105756658031515062000744821260", "", "CT")),
    "oasis-1": (["disc1/OAS1_0001_MR1/RAW/OAS1_0001_MR1_mpr-1_anon.img", "disc1/OAS1_0002_MR2/RAW/OAS1_0002_MR2_mpr-1_anon.img"], ("OAS1_0001", "MR1", "T1w")),
    "oasis-3": (["sub-OAS30001/ses-d0129/anat/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz", "sub-OAS30001/ses-d0757/anat/sub-OAS30001_ses-d0757_T2w.nii.gz"], ("sub-OAS30001", "ses-d0129", "T1w")),
    "adni": (["ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I13722/ADNI_002_S_0295_1.dcm", "ADNI/002_S_0413/MPRAGE/2006-05-02_12_31_52.0/I14437/ADNI_002_S_0413_1.dcm"], ("002_S_0295", "2006-04-18_08_20_30.0", "")),
    "adni-nifti": (["ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I13722/ADNI_002_S_0295.nii", "ADNI/002_S_0413/MPRAGE/2006-05-02_12_31_52.0/I14437/ADNI_002_S_0413.nii"], ("002_S_0295", "2006-04-18", "T1w")),
    "aibl": (["AIBL/1023/MPRAGE/2010-03-01_09_00_00.0/I339000/AIBL_1023_1.dcm", "AIBL/1024/MPRAGE/2010-03-01_09_00_00.0/I339001/AIBL_1024_1.dcm"], ("1023", "2010-03-01_09_00_00.0", "")),
    "ppmi": (["PPMI/3000/MPRAGE/2011-01-20_15_14_16.0/I248570/PPMI_3000_1.dcm", "PPMI/3001/MPRAGE/2011-01-20_15_14_16.0/I248571/PPMI_3001_1.dcm"], ("3000", "2011-01-20_15_14_16.0", "")),
    "hcp": (["100307/unprocessed/3T/T1w_MPR1/100307_3T_T1w_MPR1.nii.gz", "100307/unprocessed/3T/T2w_SPC1/100307_3T_T2w_SPC1.nii.gz"], ("100307", "", "T1w")),
    "uk-biobank": (["1000011_20252_2_0/T1/T1.nii.gz", "1000011_20253_2_0/T2_FLAIR/T2_FLAIR.nii.gz"], ("1000011", "2", "T1w")),
    "dhcp": (["sub-CC00050XX01/ses-7201/anat/sub-CC00050XX01_ses-7201_T2w_restore.nii.gz", "sub-CC00051XX02/ses-7702/anat/sub-CC00051XX02_ses-7702_desc-restore_T2w.nii.gz"], ("sub-CC00050XX01", "ses-7201", "T2w")),
    "calgary-campinas": (["CC0001_philips_15_55_M.nii.gz", "CC0061_ge_3_40_F.nii.gz"], ("CC0001", "", "T1w")),
    "kirby21": (["KKI2009-01-MPRAGE.nii", "KKI2009-02-FLAIR.nii"], ("KKI2009-01", "", "T1w")),
    "ibsr": (["IBSR_01/IBSR_01_ana.nii.gz", "IBSR_01/IBSR_01_segTRI_ana.nii.gz"], ("IBSR_01", "", "T1w")),
    "mrbrains18": (["training/1/pre/reg_T1.nii.gz", "training/1/pre/FLAIR.nii.gz", "training/1/segm.nii.gz"], ("1", "", "T1w")),
    "wmh-2017": (["training/Utrecht/0/pre/FLAIR.nii.gz", "training/Amsterdam/GE3T/100/wmh.nii.gz"], ("0", "", "FLAIR")),
    "msseg-2016": (["Center_01/Patient_01/Preprocessed_Data/FLAIR_preprocessed.nii.gz", "Center_01/Patient_01/Masks/Consensus.nii.gz"], ("Center_01/Patient_01", "", "FLAIR")),
    "isbi-ms-2015": (["training01/preprocessed/training01_01_flair_pp.nii", "training01/masks/training01_01_mask1.nii"], ("training01", "01", "FLAIR")),
    "atlas-2": (["R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz", "R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz"], ("sub-r001s001", "ses-1", "T1w")),
    "isles-2022": (["sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz", "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz"], ("sub-strokecase0001", "ses-0001", "DWI")),
    "promise12": (["Case00.mhd", "Case00_segmentation.mhd"], ("Case00", "", "T2w")),
    "pi-cai": (["10000/10000_1000000_t2w.mha", "10000/10000_1000000_adc.mha"], ("10000", "1000000", "T2w")),
    "prostate158": (["train/020/t2.nii.gz", "train/020/t2_anatomy_reader1.nii.gz"], ("020", "", "T2w")),
    "kits": (["case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz"], ("case_00000", "", "CT")),
    "lits": (["batch1/volume-0.nii", "batch1/segmentation-0.nii"], ("0", "", "CT")),
    "ct-org": (["volume-0.nii.gz", "labels-0.nii.gz"], ("0", "", "CT")),
    "btcv": (["RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz"], ("0001", "", "CT")),
    "amos22": (["amos22/imagesTr/amos_0001.nii.gz", "amos22/labelsTr/amos_0001.nii.gz"], ("amos_0001", "", "image")),
    "flare22": (["images/FLARE22_Tr_0001_0000.nii.gz", "labels/FLARE22_Tr_0001.nii.gz"], ("FLARE22_Tr_0001", "", "CT")),
    "pancreas-ct": (["data/PANCREAS_0001.nii.gz", "data/label0001.nii.gz"], ("0001", "", "CT")),
    "chaos": (["Train_Sets/MR/1/T2SPIR/DICOM_anon/IMG-0002-00001.dcm", "Train_Sets/CT/2/DICOM_anon/i0051,0000b.dcm"], ("1", "", "")),
    "verse": (["rawdata/sub-verse004/sub-verse004_ct.nii.gz", "derivatives/sub-verse004/sub-verse004_seg-vert_msk.nii.gz"], ("sub-verse004", "", "CT")),
    "hecktor": (["imagesTr/CHUM-001__CT.nii.gz", "imagesTr/CHUM-001__PT.nii.gz", "labelsTr/CHUM-001.nii.gz"], ("CHUM-001", "", "CT")),
    "segthor": (["train/Patient_01/Patient_01.nii.gz", "train/Patient_01/GT.nii.gz"], ("Patient_01", "", "CT")),
    "emidec": (["Case_N006/Images/Case_N006.nii.gz", "Case_N006/Contours/Case_N006.nii.gz"], ("Case_N006", "", "LGE")),
    "mm-whs": (["ct_train/ct_train_1001_image.nii.gz", "ct_train/ct_train_1001_label.nii.gz"], ("ct_train_1001", "", "CT")),
    "sunnybrook": (["SC-HF-I-01/CINESAX_300/IM-0001-0001.dcm", "SC-N-02/CINESAX_296/IM-0001-0001.dcm"], ("SC-HF-I-01", "", "")),
    "dsb-2015": (["train/1/study/sax_10/IM-4562-0001.dcm", "train/1/study/2ch_21/IM-5069-0001.dcm"], ("1", "", "")),
    "ldct-projections": (["C002/12-23-2021-NA-NA-61228/1.000000-Full Dose Images-50785/1-001.dcm", "C002/12-23-2021-NA-NA-61228/1.000000-Low Dose Images-39882/1-001.dcm"], ("C002", "", "")),
    "tcia": (["TCGA-02-0003/06-08-1997-MRI BRAIN-12345/7.000000-Axial-98765/1-01.dcm", "TCGA-02-0006/08-23-1996-MRI-12346/7.000000-Axial-98766/1-01.dcm"], ("TCGA-02-0003", "", "")),
    "chexpert": (["train/patient00001/study1/view1_frontal.jpg", "train/patient00002/study2/view1_frontal.jpg"], ("patient00001", "study1", "CXR")),
    "mimic-cxr": (["files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg", "files/p10/p10000032/s53189527/2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab.jpg"], ("p10000032", "s50414267", "CXR")),
    "chestx-ray14": (["images_001/images/00000001_000.png", "images_001/images/00000001_001.png"], ("00000001", "000", "CXR")),
    "deeplesion": (["Images_png/000001_01_01/103.png", "Images_png/000001_01_01/104.png"], ("000001", "01_01", "CT_picture")),
    "mosmed": (["studies/CT-1/study_0255.nii.gz", "masks/study_0255_mask.nii.gz"], ("study_0255", "", "CT")),
    "skm-tea": (["files_recon_calib-24/MTR_001.h5", "files_recon_calib-24/MTR_005.h5"], ("MTR_001", "", "kspace")),
    "learn2reg-oasis": (["imagesTr/OASIS_0001_0000.nii.gz", "labelsTr/OASIS_0001_0000.nii.gz"], ("OASIS_0001", "", "T1w")),
    "bids": (["sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz", "sub-02/anat/sub-02_FLAIR.nii"], ("sub-01", "ses-a", "T1w")),
    "nnunet-raw": (["Dataset004_Hippocampus/imagesTr/hippocampus_001_0000.nii.gz", "Dataset004_Hippocampus/labelsTr/hippocampus_001.nii.gz"], ("hippocampus_001", "", "0000")),
}  # fmt: skip


def test_there_are_enough_of_them_and_each_has_a_twin() -> None:
    assert len(SETS) >= 40
    assert TWINS.keys() == SETS.keys()
    for one in SETS.values():
        assert one.title
        assert one.licence
        assert one.access in ("open", "registration", "application", "see page")
        assert one.cite
        assert "://" not in one.page


@pytest.mark.parametrize("name", list(TWINS))
def test_a_twin_is_recognised_and_no_other_set_is_meant(name: str, tmp_path: Path) -> None:
    names, told = TWINS[name]
    paths = [tmp_path / one for one in names]
    found = recognised(paths, tmp_path)
    assert found is not None
    assert found.layout.name == name
    first = found.files[paths[0]]
    assert (first.patient, first.visit, first.contrast) == told
    assert SETS[name].title in found.words


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, s in SETS.items()
        if not s.proposed and n not in ("fastmri-knee", "fastmri-brain", "openkbp", "skm-tea", "oasis-1")
    ],
)
def test_a_twin_is_read_as_the_set_means(name: str, tmp_path: Path) -> None:
    names, told = TWINS[name]
    for k, one in enumerate(names):
        _write(tmp_path / one, k)
    cohort = find(tmp_path)
    assert cohort.looks_like
    assert next(iter(lines(cohort))) == cohort.looks_like
    patient, visit, contrast = told
    member = next(m for m in cohort.members if m.patient == patient)
    assert member.visit == visit
    assert contrast in member.contrasts()
    if "label" in {named.contrast for named in recognised([tmp_path / n for n in names], tmp_path).files.values()}:
        labelled = [m.scans["label"] for m in cohort.members if "label" in m.contrasts()]
        assert labelled
        assert all(s.kind == "label" for s in labelled)


def _write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    label = any(word in path.name.lower() for word in ("seg", "label", "gt", "mask", "msk")) or path.parent.name in (
        "Contours",
        "labelsTr",
    )
    rng = np.random.default_rng(seed)
    values = (
        (rng.random((4, 5, 6)) > 0.5).astype(np.uint8) if label else (rng.random((4, 5, 6)) * 200).astype(np.float32)
    )
    if path.suffix in (".mha", ".mhd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path))
    elif path.suffix in (".png", ".jpg"):
        Picture.fromarray((rng.random((16, 16)) * 255).astype(np.uint8)).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1, 1, 1])), path)


def test_units_and_days_that_a_set_states(tmp_path: Path) -> None:
    for k, one in enumerate(["PET.nii.gz", "SUV.nii.gz", "CTres.nii.gz", "CT.nii.gz", "SEG.nii.gz"]):
        _write(tmp_path / "PETCT_0a/03-23-2003-NA" / one, k)
    (member,) = find(tmp_path).members
    assert member.contrasts() == ("CT", "PET", "label")  # of two that say the same, the better one
    assert member.scans["PET"].files[0].name == "SUV.nii.gz"
    assert (member.scans["PET"].unit, member.scans["CT"].unit) == ("SUV", "HU")
    assert (member.scans["PET"].unit_from, member.scans["CT"].unit_from) == ("name", "name")  # values may still object
    for k, day in enumerate(("0129", "0757")):
        _write(tmp_path / f"o/sub-OAS30001/ses-d{day}/anat/sub-OAS30001_ses-d{day}_T1w.nii.gz", k)
    assert [m.days for m in find(tmp_path / "o").members] == [129.0, 757.0]


def test_a_convention_is_said_and_read_by_its_own_rules(tmp_path: Path) -> None:
    for k in range(2):
        _write(tmp_path / f"bids/sub-0{k}/anat/sub-0{k}_T1w.nii.gz", k)
        _write(tmp_path / f"raw/Dataset001_X/imagesTr/x_00{k}_0000.nii.gz", k)
    found = find(tmp_path / "bids")
    assert found.looks_like.startswith("This is laid out as BIDS (Brain Imaging Data Structure): 2 of 2 files.")
    assert found.patients == ("sub-00", "sub-01") or found.patients == ("00", "01")
    assert "nnU-Net raw data: 2 of 2" in find(tmp_path / "raw").looks_like


def test_folders_of_nobody_else_are_read_as_ever(tmp_path: Path) -> None:
    for k in range(3):
        _write(tmp_path / f"p{k}" / "T1w.nii.gz", k)
    cohort = find(tmp_path)
    assert cohort.looks_like == ""
    assert cohort.patients == ("p0", "p1", "p2")
    assert (
        recognised([tmp_path / "BraTS2021_00000/BraTS2021_00000_flair.nii.gz"], tmp_path) is None
    )  # one file is no set


def test_names_that_others_have_too_are_only_proposed(tmp_path: Path) -> None:
    for k in range(2):
        _write(tmp_path / f"Patient_0{k}" / f"Patient_0{k}.nii.gz", k)
        _write(tmp_path / f"Patient_0{k}" / "GT.nii.gz", k)
    cohort = find(tmp_path)
    assert cohort.looks_like.startswith("This may be SegTHOR")
    assert "CT" not in {c for m in cohort.members for c in m.contrasts()}


def test_one_number_at_two_centres_is_two_people(tmp_path: Path) -> None:
    for centre in ("01", "07"):
        for name in ("FLAIR", "T1"):
            _write(
                tmp_path / f"Training/Center_{centre}/Patient_01/Preprocessed_Data/{name}_preprocessed.nii.gz",
                int(centre),
            )
    cohort = find(tmp_path)
    assert cohort.patients == ("Center_01/Patient_01", "Center_07/Patient_01")


def test_sessions_of_the_same_people_are_doubtful(tmp_path: Path) -> None:
    for k in (1, 2):
        _write(tmp_path / f"KKI2009-0{k}-MPRAGE.nii", k)
    (doubt,) = find(tmp_path).doubts
    assert "42 sessions of 21 people" in doubt
