"""Identifiers: each attribute of the table, planted ones that the engine is not told of, references that stay, pixels."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from fabrica.data.vocabulary import CONTRASTS, LABELS
from fabrica.deliver.deidentification import folder
from fabrica.deliver.deidentification.engine import DUMMIES, Deidentifier, RefusedError, moved
from fabrica.deliver.deidentification.folder import TWO_PERSONS, Hands, deidentified, key_of
from fabrica.deliver.deidentification.profile import Options, rules
from fabrica.deliver.deidentification.words import cleaned, technical
from fabrica.machine.executors import Dask
from fabrica.machine.folders import HELD, alone

from .iod import missing
from .scanner import head, write_series

KEY = bytes(range(32))
PLANTS = {  # a value that is found again in bytes, by kind
    "PN": "Secret^{n}", "LO": "SECRET{n}", "SH": "SECRET{n}", "ST": "SECRET{n}", "LT": "SECRET{n}", "UT": "SECRET{n}", "UC": "SECRET{n}",
    "CS": "SECRET{n}", "AE": "SECRET{n}", "UR": "http://SECRET{n}", "DA": "19{n:02d}0203", "TM": "{n}0203", "DT": "19{n:02d}0203040506", "AS": "0{n:02d}Y",
    "DS": "7.{n}", "IS": "7{n}", "UI": "1.2.3.4.{n}",
}  # fmt: skip


def _scan(tmp_path: Path) -> Any:
    return pydicom.dcmread(write_series(tmp_path / "scan", *head())[0])


def _planted(ds: Any, tag: int, number: int) -> Any:
    """Of an attribute of the table a value of its own; None where its kind holds no text."""
    vr = dictionary_VR(tag).split(" ")[0]
    if vr == "SQ":
        item = Dataset()
        item.PatientComments, item.CodeMeaning = f"SECRET{number}", "kept"
        ds.add_new(tag, vr, [item])
        return "SQ"
    if vr in PLANTS:
        ds.add_new(tag, vr, PLANTS[vr].format(n=number % 13 + 10))
        return ds[tag].value
    if vr in ("OB", "OW", "UN"):
        ds.add_new(tag, vr, b"SECRET%04d" % number)
        return ds[tag].value
    if vr in ("US", "UL", "SS", "SL", "FL", "FD", "UV", "SV"):
        ds.add_new(tag, vr, 77)
        return 77
    return None


def _every_attribute() -> list[int]:
    """But those that say which file it is, and the encapsulated document, with which a file is refused whole."""
    spared = (0x00080018, 0x0020000D, 0x0020000E, 0x00420011)
    return [t for t in rules() if dictionary_has_tag(t) and t >> 16 > 2 and t not in spared]


def test_every_attribute_of_the_table_is_acted_on(tmp_path: Path) -> None:
    """One file that holds each: none keeps its value; a private one, overlays and curves are gone."""
    ds, plants = _scan(tmp_path), {}
    for number, tag in enumerate(_every_attribute()):
        if (value := _planted(ds, tag, number)) is not None:
            plants[tag] = value
    ds.private_block(0x0011, "SECRET MAKER", create=True).add_new(1, "LO", "SECRET")
    ds.add_new(0x60004000, "LT", "SECRET overlay")
    ds.add_new(0x50003000, "OW", b"SECRET curve")
    assert len(plants) > 600
    made = Deidentifier(KEY).applied(ds)
    left = [
        keyword_for_tag(t)
        for t, v in plants.items()
        if v != "SQ" and t in made and made[t].value == v and v not in ("", None)
    ]
    assert left == []
    text = str(made)
    assert "SECRET" not in text.upper().replace("ANONYMIZED", "")
    assert not [e for e in made.iterall() if e.tag.is_private or 0x5000 <= e.tag.group <= 0x60FF]
    assert len(rules()) >= 650


@pytest.mark.parametrize(
    "options",
    [Options(), Options(dates="shift"), Options(descriptors=True), Options(frozenset({"device", "institution"}))],
)
def test_planted_identifiers_are_acted_on_wherever_they_stand(options: Options, tmp_path: Path) -> None:
    """Three patients; identifiers in places that the engine is not told of: the share that was taken out is the score."""
    plants, kept = 0, []
    for number, (name, identity) in enumerate(
        (("Featherstonehaugh^Zoë^Q", "MRN_5512_77"), ("Li^Wu", "A17_0099"), ("Müller^Jürgen", "88001234"))
    ):
        ds = pydicom.dcmread(write_series(tmp_path / str(number), *head(), PatientName=name, PatientID=identity)[0])
        family, given = name.split("^")[:2]
        places: dict[str, Callable[[], None]] = {
            "SeriesDescription": lambda ds=ds, f=family: setattr(ds, "SeriesDescription", f"T1w for {f} axial"),
            "SequenceName": lambda ds=ds, i=identity: setattr(ds, "SequenceName", f"{i}"[:16]),
            "TransmitCoilName": lambda ds=ds, f=family: setattr(ds, "TransmitCoilName", f"{f[:16]}"),
            "ScanOptions": lambda ds=ds, i=identity: setattr(ds, "ScanOptions", i[:16]),
            "nested": lambda ds=ds, g=given, f=family: setattr(ds, "ProcedureCodeSequence", [_item(CodeMeaning=f"scan of {g} {f}")]),
            "deep": lambda ds=ds, i=identity: setattr(ds, "ReferencedStudySequence", [_item(PurposeOfReferenceCodeSequence=[_item(CodeMeaning=f"see {i}")])]),
            "ImageComments": lambda ds=ds, f=family: setattr(ds, "ImageComments", f"call Mrs {f} at 555-0199"),
            "OtherPatientNames": lambda ds=ds, f=family: setattr(ds, "OtherPatientNames", f"{f}^Other"),
            "OperatorsName": lambda ds=ds: setattr(ds, "OperatorsName", "Operator^Olga"),
            "RequestAttributes": lambda ds=ds: setattr(ds, "RequestAttributesSequence", [_item(ScheduledProcedureStepDescription="for Dr Olga Operator")]),
            "AcquisitionDate": lambda ds=ds: setattr(ds, "AcquisitionDate", "20260102"),
            "ContentDate": lambda ds=ds: setattr(ds, "ContentDate", "20260102"),
            "file": lambda ds=ds: setattr(ds.file_meta, "SourceApplicationEntityTitle", "WARD7MR"),
        }  # fmt: skip
        for plant in places.values():
            plant()
        plants += len(places) + 5  # name, ID, birth date, referring physician, accession
        made = Deidentifier(KEY, options).applied(ds)
        path = tmp_path / f"out{number}.dcm"
        made.save_as(path, enforce_file_format=True)
        text = str(pydicom.dcmread(path).file_meta) + str(pydicom.dcmread(path))
        words = [family, given, identity, "19700101", "Olga", "555-0199", "WARD7MR", "ACC7", "Doe"]
        words += ["20260102"] if options.dates != "keep" else []
        kept += [w for w in words if re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE)]
    score = 1 - len(kept) / plants
    assert score >= 0.999, (score, kept)


def _item(**values: Any) -> Dataset:
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def test_references_stay_references_and_patients_stay_apart(tmp_path: Path) -> None:
    """UIDs of three series of two patients, under one key; another key gives others."""
    first = write_series(tmp_path / "one", *head(), PatientID="P1")
    second = write_series(tmp_path / "two", *head(), PatientID="P1")
    third = write_series(tmp_path / "three", *head(), PatientID="P2")
    referring = pydicom.dcmread(second[0])
    referring.ReferencedImageSequence = [
        _item(
            ReferencedSOPClassUID=referring.SOPClassUID,
            ReferencedSOPInstanceUID=pydicom.dcmread(first[1]).SOPInstanceUID,
        )
    ]
    by = Deidentifier(KEY)
    a, b, c, r = (by.applied(pydicom.dcmread(p)) for p in (first[1], second[1], third[1], second[0]))
    r = by.applied(referring)
    assert r.ReferencedImageSequence[0].ReferencedSOPInstanceUID == a.SOPInstanceUID
    assert r.ReferencedImageSequence[0].ReferencedSOPClassUID == referring.SOPClassUID
    assert a.PatientID == b.PatientID != c.PatientID
    assert a.PatientID.startswith("ANON-")
    assert len({str(x.SeriesInstanceUID) for x in (a, b, c)}) == 3
    assert a.file_meta.MediaStorageSOPInstanceUID == a.SOPInstanceUID
    other = Deidentifier(KEY[::-1]).applied(pydicom.dcmread(first[1]))
    assert other.PatientID != a.PatientID
    assert other.SOPInstanceUID != a.SOPInstanceUID
    same = Deidentifier(KEY).applied(pydicom.dcmread(first[1]))
    assert (same.PatientID, same.SOPInstanceUID) == (a.PatientID, a.SOPInstanceUID)
    assert (
        Deidentifier(KEY, Options(frozenset({"uids"}))).applied(pydicom.dcmread(first[1])).SOPInstanceUID
        == pydicom.dcmread(first[1]).SOPInstanceUID
    )


def test_dates_move_together_and_times_between_them_stay(tmp_path: Path) -> None:
    days = []
    for number, when in enumerate(("20200131", "20200301")):
        ds = pydicom.dcmread(
            write_series(tmp_path / str(number), *head(), StudyDate=when, AcquisitionDateTime=f"{when}101112.5")[0]
        )
        made = Deidentifier(KEY, Options(dates="shift")).applied(ds)
        days.append(pydicom.valuerep.DA(made.StudyDate))
        assert str(made.AcquisitionDateTime).startswith(str(made.StudyDate))
        assert str(made.AcquisitionDateTime).endswith("101112.5")
        assert made.StudyTime == "101112"
        assert made.PatientBirthDate == "" or made.PatientBirthDate is None
        assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    assert (days[1] - days[0]).days == 30
    assert days[0] < pydicom.valuerep.DA("20200131")
    assert Deidentifier(KEY, Options(dates="keep")).applied(ds).StudyDate == "20200301"
    assert Deidentifier(KEY).applied(ds).StudyDate in ("", None)


@pytest.mark.parametrize(
    ("text", "days", "found"),
    [
        ("20200301", -1, "20200229"),
        ("20200301101112.5+0100", 1, "20200302101112.5+0100"),
        ("2020", -5, ""),
        ("20201399", 1, ""),
        ("00010101", -5, ""),
        ("", 1, ""),
    ],
)
def test_dates_that_are_moved(text: str, days: int, found: str) -> None:
    assert moved(text, days) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AX T1 FLAIR head 3D 5mm", "T1 FLAIR head 3D 5mm"),
        ("John Smith's brain", "brain"),
        ("Dr. Meier 12", ""),
        ("MR 20261129 ACC771", "MR"),
        ("", ""),
    ],
)
def test_words_that_stay(text: str, found: str) -> None:
    assert cleaned(text) == found


def test_descriptions_still_say_the_contrast(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_series(tmp_path, *head(), description="t1w mprage of Ünal sag")[0])
    made = Deidentifier(KEY, Options(descriptors=True)).applied(ds)
    assert made.SeriesDescription == "t1w mprage sag"
    assert "SeriesDescription" not in Deidentifier(KEY).applied(ds)


def test_it_says_what_was_done_by_which_codes(tmp_path: Path) -> None:
    made = Deidentifier(KEY, Options(frozenset({"characteristics"}), "shift", True)).applied(_scan(tmp_path))
    assert made.PatientIdentityRemoved == "YES"
    codes = {i.CodeValue for i in made.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113105", "113107", "113108"}
    assert "2026c" in str(made.DeidentificationMethod)
    assert made.PatientSex == "F"
    assert Deidentifier(KEY).applied(_scan(tmp_path)).PatientSex in ("", None)


def test_what_is_left_is_still_an_image_that_reads_the_same(tmp_path: Path) -> None:
    """No attribute of type 1 or 2 is missing, pixels and places are those of before."""
    ds = _scan(tmp_path)
    made = Deidentifier(KEY).applied(ds)
    path = tmp_path / "made.dcm"
    made.save_as(path, enforce_file_format=True)
    back = pydicom.dcmread(path)
    assert missing(back) == []
    assert np.array_equal(back.pixel_array, ds.pixel_array)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "RepetitionTime"):
        assert back[name].value == ds[name].value
    assert ds.PatientID == "GEN-0001"  # the given one is as it was


def test_overlays_in_unused_bits_are_taken_out(tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    ds.BitsStored, ds.HighBit = 12, 11
    clean = (np.frombuffer(ds.PixelData, "<u2") & 0x0FFF).astype("<u2")
    ds.PixelData = (clean | 0x8000).astype("<u2").tobytes()
    ds.add_new(0x60000102, "US", 15)
    made = Deidentifier(KEY).applied(ds)
    assert np.array_equal(np.frombuffer(made.PixelData, "<u2"), clean)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"BurnedInAnnotation": "YES"}, "may hold words"), ({"Modality": "US"}, "absent, US"), ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66"}, "raw data"), ({"PatientID": "", "PatientName": "", "PatientBirthDate": "", "StudyInstanceUID": ""}, "neither patient nor study"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_safe_is_refused(change: dict[str, str], words: str, tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    for name, value in change.items():
        setattr(ds, name, value)
    with pytest.raises(RefusedError, match=words):
        Deidentifier(KEY).applied(ds)
    if "may hold" in words:
        assert Deidentifier(KEY, burned_in=True).applied(ds).PatientIdentityRemoved == "YES"


def test_patients_without_a_number_are_told_by_name_and_birth(tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    ds.PatientID = ""
    by_name = Deidentifier(KEY).applied(ds).PatientID
    ds.PatientName = ds.PatientBirthDate = ""
    by_study = Deidentifier(KEY).applied(ds).PatientID
    assert len({by_name, by_study, Deidentifier(KEY).applied(_scan(tmp_path)).PatientID}) == 3


def test_a_folder_with_strange_files(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in" / "a", *head())
    (tmp_path / "in" / "notes.txt").write_text("Ünal, Zoë")
    (tmp_path / "in" / "broken.dcm").write_bytes(files[0].read_bytes()[:400])
    (tmp_path / "in" / "empty.dcm").write_bytes(b"")
    ds = pydicom.dcmread(files[1])
    ds.BurnedInAnnotation = "YES"
    ds.save_as(files[1])
    said: list[str] = []
    key = key_of(tmp_path / "keys" / "key", said.append)
    found = deidentified(tmp_path / "in", tmp_path / "out", Deidentifier(key), said.append)
    assert found.written == 3
    assert sum(found.refused.values()) == 4
    assert "Made the key" in said[0]
    assert any("left out, 1 files: its pixels may hold words" in line for line in said)
    for path in (tmp_path / "out").rglob("*.dcm"):
        for word in ("GEN-0001", "Ünal", "Acme^"):
            assert word not in str(path)
            assert word not in str(pydicom.dcmread(path))
    with pytest.raises(ValueError, match="lies within"):
        deidentified(tmp_path / "in", tmp_path / "in" / "out", Deidentifier(key))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        deidentified(tmp_path / "none", tmp_path / "out", Deidentifier(key))


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert key_of(path, lambda _: None) == key_of(path, lambda _: None)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        key_of(path)
    path.write_text("not hex")
    path.chmod(0o600)
    with pytest.raises(ValueError, match="no key of hexadecimal"):
        key_of(path)
    with pytest.raises(ValueError, match="at least 16"):
        Deidentifier(b"short")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Options(frozenset({"everything"})), "--keep everything"),
        (lambda: Options(dates="sometimes"), "--dates sometimes"),
    ],
)  # type: ignore[arg-type]
def test_options_that_are_none(make: Callable[[], Options], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_words_that_contrasts_are_recognised_by_stay() -> None:
    for tokens in (*CONTRASTS.values(), *LABELS.values()):
        assert all(cleaned(token) == token.replace("_", " ") for token in tokens), tokens


def test_technical_attributes_are_text_that_the_table_does_not_name() -> None:
    for keyword in technical():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        assert dictionary_VR(tag) in ("LO", "SH", "ST", "LT", "UT", "UC", "UR"), keyword
        assert tag not in rules(), keyword


def test_every_kind_of_value_has_a_dummy() -> None:
    kinds = {
        dictionary_VR(t).split(" ")[0] for t, rule in rules().items() if dictionary_has_tag(t) and "D" in rule.action
    }
    assert kinds <= {*DUMMIES, "SQ", "UI", "OB", "OW", "UN", "OD", "OF", "OL", "OV"}


def test_cut_off_pixels_are_refused(tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    ds.PixelData = ds.PixelData[:-40]
    with pytest.raises(RefusedError, match="cut off"):
        Deidentifier(KEY).applied(ds)


def test_two_files_of_one_uid_do_not_overwrite_each_other(tmp_path: Path) -> None:
    first = write_series(tmp_path / "in" / "a", *head())
    other = pydicom.dcmread(first[0])
    other.EchoTime = "99"
    other.save_as(tmp_path / "in" / "b.dcm")
    (tmp_path / "in" / "copy.dcm").write_bytes(first[1].read_bytes())
    found = deidentified(tmp_path / "in", tmp_path / "out", Deidentifier(KEY), lambda _: None)
    assert found.written == len(first) + 1  # the copy is the same file
    assert sum(found.refused.values()) == 1
    assert "holds something else" in next(iter(found.refused))


def test_workers_write_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever each of them sees: two birth dates under one number and two files of one instance lie far apart."""
    monkeypatch.setattr(folder, "EACH", 2)
    first = write_series(tmp_path / "in" / "m", *head())
    for name, change in (("a", {"PatientBirthDate": "19010203"}), ("z", {"EchoTime": "99"})):
        other = pydicom.dcmread(first[0])
        for word, value in change.items():
            setattr(other, word, value)
        other.save_as(tmp_path / "in" / f"{name}.dcm")
    (tmp_path / "in" / "notes.txt").write_text("about")
    key, passes = tmp_path / "key", []
    by = key_of(key, lambda _: None)
    for name, hands in (("here", None), ("there", Hands(Dask(workers=2), key))):
        passes.append(deidentified(tmp_path / "in", tmp_path / name, Deidentifier(by), lambda _: None, hands))
    here, there = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.dcm")} for n in ("here", "there")
    )
    assert here == there
    assert passes[0] == passes[1]
    assert passes[0].written == 1  # a.dcm came first: whoever has another birth date is refused
    assert passes[0].refused == {TWO_PERSONS: len(first) + 1, "it is no DICOM file": 1}


def test_a_label_whose_words_are_all_taken_out_is_no_empty_one(tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    ds.RTPlanLabel, ds.ProtocolName = "Meier", "Meier"
    made = Deidentifier(KEY, Options(descriptors=True)).applied(ds)
    assert made.RTPlanLabel == "ANONYMIZED"  # of type 1 where it stands
    assert made.get("ProtocolName", "ANONYMIZED") == "ANONYMIZED"


def test_terms_of_the_standard_are_no_names(tmp_path: Path) -> None:
    """A patient called Perfusion: the image's type stays, her name goes."""
    ds = _scan(tmp_path)
    ds.PatientName, ds.ImageType = "Perfusion^Molly", ["DERIVED", "PRIMARY", "PERFUSION", "MOLLY"]
    made = Deidentifier(KEY).applied(ds)
    assert list(made.ImageType) == ["DERIVED", "PRIMARY", "PERFUSION", "ANONYMIZED"]


@pytest.mark.filterwarnings("ignore:::pydicom")  # files of other people's programs
def test_real_files_name_nobody_and_conform_as_before(real_data: Path) -> None:
    """Every sample of other people's scanners that can be read: no word of a name or number is left."""
    by = Deidentifier(KEY)
    checked = 0
    for path in sorted((real_data / "dicom_samples").rglob("*")):
        try:
            ds = pydicom.dcmread(path) if path.is_file() else None
            made = by.applied(ds) if ds is not None else None
        except (pydicom.errors.InvalidDicomError, RefusedError, ValueError):
            continue
        if made is None:
            continue
        checked += 1
        words = [
            w for n in ("PatientID", "AccessionNumber", "InstitutionName") for w in [str(ds.get(n, ""))] if len(w) > 5
        ]
        words += [w for w in re.split(r"[\^ =]+", str(ds.get("PatientName", ""))) if len(w) > 3 and not cleaned(w)]
        text = "\n".join(str(e.value) for e in made.iterall() if e.VR not in ("SQ", "OB", "OW", "CS"))
        assert not [w for w in words if re.search(rf"\b{re.escape(w)}\b", text)], path.name
        assert set(missing(made)) <= set(missing(ds)), path.name
    assert checked >= 25


PLANTED = {
    "PatientBirthDateInAlternativeCalendar": "昭和26年2月3日", "RetrieveURL": "https://pacs.st-mary.org/studies/1.2.826.77.1/x", "FillerOrderNumberProcedure": "FON55512345",
    "CommentsOnTheScheduledProcedureStep": "call daughter 0171 5551234, 12 Oak Street", "TextValue": "Retired postman of 12 Oak Street", "AcquisitionNumber": "778899",
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_attributes_that_the_table_does_not_name_tell_nothing_either(name: str, tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_series(tmp_path, *head(), PatientID="MRN-778899")[0])
    setattr(ds, name, PLANTED[name])
    made = Deidentifier(KEY).applied(ds)
    assert str(made.get(name, "")) in ("", "None", "ANONYMIZED", "0")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LEE^Ann", "tse_lee2"),
        ("LEE^Ann", "LEE_head scan"),
        ("山田^太郎", "山田太郎様の検査"),
        ("Müller-Lüdenscheidt^J", "Lüdenscheidt, J"),
        ("A^B", "p778899"),
        ("A^B", "MRN 778899"),
        ("A^B", "born 19700101"),
        ("A^B", "HOSP5544"),
        ("A^B", "Vandenberg"),
    ],
)
def test_names_and_numbers_are_found_however_they_are_written(name: str, text: str, tmp_path: Path) -> None:
    ds = pydicom.dcmread(
        write_series(tmp_path, *head(), PatientName=name, PatientID="MRN-778899", SequenceName=text)[0]
    )
    ds.OtherPatientIDs, ds.OperatorsName = ["HOSP5544", "KLIN9911"], ["Vandenberg^X", "Other^Y"]
    assert Deidentifier(KEY).applied(ds).SequenceName == "ANONYMIZED"


def test_bytes_behind_the_pixels_and_profiles_are_cut_off(tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    clean = ds.PixelData
    ds.PixelData, ds.ICCProfile = clean + b"MRN778899 ", b"made for Ms Smith "
    made = Deidentifier(KEY).applied(ds)
    assert made.PixelData == clean
    assert "ICCProfile" not in made


@pytest.mark.parametrize(
    "change",
    [
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        {"ConversionType": "WSD"},
    ],
)
def test_captures_of_any_modality_may_hold_words(change: dict[str, Any], tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    for name, value in change.items():
        setattr(ds, name, value)
    with pytest.raises(RefusedError, match="may hold words"):
        Deidentifier(KEY).applied(ds)


def test_a_patient_is_one_whoever_issued_the_number_and_two_are_not(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in" / "a", *head())
    with_issuer = pydicom.dcmread(files[0])
    with_issuer.IssuerOfPatientID = "HOSPITAL"
    assert (
        Deidentifier(KEY).applied(with_issuer).PatientID
        == Deidentifier(KEY).applied(pydicom.dcmread(files[1])).PatientID
    )
    write_series(tmp_path / "in" / "b", *head(), PatientName="Other^One", PatientBirthDate="19441231")
    found = deidentified(tmp_path / "in", tmp_path / "out", Deidentifier(KEY), lambda _: None)
    assert found.written == len(files)
    assert "its Patient ID stands for persons of several birth dates" in found.refused


def test_codes_of_the_world_stay_and_ranges_of_dates_go(tmp_path: Path) -> None:
    ds = _scan(tmp_path)
    ds.CodingSchemeIdentificationSequence = [
        _item(CodingSchemeDesignator="SCT", CodingSchemeUID="2.16.840.1.113883.6.96")
    ]
    made = Deidentifier(KEY, Options(dates="shift")).applied(ds)
    assert made.CodingSchemeIdentificationSequence[0].CodingSchemeUID == "2.16.840.1.113883.6.96"
    assert moved("20190707-20200401", -3) == ""


def test_one_broken_file_ends_nothing(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", *head())
    ds = pydicom.dcmread(files[0])
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "in" / "broken.dcm", enforce_file_format=True)
    content = (tmp_path / "in" / "broken.dcm").read_bytes()
    (tmp_path / "in" / "broken.dcm").write_bytes(content[:-200] + b"\xff" * 200)
    found = deidentified(tmp_path / "in", tmp_path / "out", Deidentifier(KEY), lambda _: None)
    assert found.written == len(files)
    assert sum(found.refused.values()) == 1


def test_a_folder_that_another_process_writes_into_is_left_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "in", *head())
    with alone(tmp_path / "out" / HELD), pytest.raises(ValueError, match="is being written into by another process"):
        deidentified(tmp_path / "in", tmp_path / "out", Deidentifier(b"k" * 32), lambda _: None)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {HELD}
