"""What every object says of itself: that it was drawn, by what, of which files; and a UID that follows from that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..record import Drawn, Record
from .source import one_study

EXPLICIT = "1.2.840.10008.1.2.1"  # transfer syntax: readers that do not know an attribute still see its kind
IMPLEMENTATION = "2.25.289187543291340217365490221118733460112"
MARK = "SYNTHETIC"
FIRST_NUMBER = 9000  # of series: above what scanners give
SCHEME = ("99FABRICA", "2.25.201743518390017285570293362290114563122", "Fabrica")  # designator, UID, name
LIBRARY_ROOT = "1.2.826.0.1.3680043.10.511.3."  # of UIDs that highdicom makes by chance
EXTRA = 'Install what writes it: pip install -e ".[clinic]" -c constraints.txt'
DATES = ("InstanceCreationDate", "SeriesDate", "ContentDate")
TIMES = ("InstanceCreationTime", "SeriesTime", "ContentTime")


@dataclass(frozen=True)
class Series:
    """A derived series and what is known of it beside its files."""

    uid: str
    datasets: tuple[Any, ...]  # pydicom, one for each file
    clipped: int = 0
    factor: float = 1.0  # what is read of it = factor x what was drawn; not 1 where a modality has numbers of its own


@dataclass(frozen=True)
class Making:
    """One drawn contrast of one case: by whom, of whose files, and which of its draws."""

    record: Record
    drawn: Drawn
    headers: Sequence[Any]  # of the files that it was drawn from, without pixels
    which: str = "mean"

    @property
    def template(self) -> Any:
        """The header that speaks for all; raises ValueError for several patients or studies, or none."""
        return one_study(self.headers, self.drawn.case)

    @property
    def given(self) -> str:
        return ", ".join(self.drawn.given)

    def known(self) -> dict[str, Any]:
        """What decides the UID of all objects of it: whatever they say, but the day."""
        record, drawn = self.record, self.drawn
        return {
            "sources": sorted(str(h.SOPInstanceUID) for h in self.headers), "weights": record.weights,
            "recipe": record.recipe, "seed": record.seed, "case": drawn.case, "contrast": drawn.contrast,
            "draw": self.which, "of": len(drawn.files), "given": list(drawn.given), "version": record.version,
            "run": record.run, "stage": record.stage,
        }  # fmt: skip

    def told(self, more: str = "") -> str:
        """How it came to be, in one line of at most 1024 letters."""
        record, count = self.record, len(self.drawn.files)
        how = "mean of draws" if self.which == "mean" else f"draw {self.which}"
        how = {"spread": "spread of draws", "prior": "what of the mean no datum fixes"}.get(self.which, how)
        return (
            f"Drawn by a model, not acquired: {record.job} by {record.family} from {self.given}, {how} of {count},"
            f" seed {record.seed}, weights sha256 {record.weights}. For research only.{more}"
        )[:1024]

    @property
    def contribution(self) -> str:
        record = self.record
        return f"run {record.run}, stage {record.stage}, weights sha256 {record.weights}"[:1024]


def uid_of(known: Mapping[str, Any]) -> str:
    """2.25 and 128 bits of what is known (PS3.5 B.2): the same is the same on every machine."""
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return f"2.25.{int(hashlib.sha256(text.encode()).hexdigest()[:32], 16)}"


def mark(ds: Any, making: Making) -> None:
    """Synthetic, for research, by Fabrica; dated by the draw, so that a second delivery is the same bytes."""
    date(ds, making.record.made)
    ds.SyntheticData, ds.ContentQualification = "YES", "RESEARCH"
    ds.Manufacturer, ds.ManufacturerModelName = "Fabrica", making.record.family[:64]
    ds.SoftwareVersions, ds.DeviceSerialNumber = making.record.version[:64], making.record.weights[:64]
    ds.ContributingEquipmentSequence = equipment(making)


def date(ds: Any, when: str) -> None:
    """When it was made, an ISO 8601 time; nothing says when anything was acquired."""
    for name in DATES:
        setattr(ds, name, when[:10].replace("-", ""))
    for name in TIMES:
        setattr(ds, name, when[11:19].replace(":", ""))


def moment(when: str) -> str:
    """An ISO 8601 time as DICOM writes one (DT), without its offset."""
    return when[:19].translate(str.maketrans("", "", "-:T"))


def code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def own_scheme() -> Any:
    """Whose codes those are that no standard has (CodingSchemeIdentificationSequence)."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.CodingSchemeDesignator, ds.CodingSchemeUID, ds.CodingSchemeName = SCHEME
    return ds


def reference(header: Any) -> Any:
    """A file that something was drawn from."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    ds.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    return ds


def equipment(making: Making) -> list[Any]:
    """The scanner that acquired, and the program that drew."""
    from pydicom.dataset import Dataset

    scanner, drawer, template = Dataset(), Dataset(), making.template
    scanner.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
    scanner.Manufacturer = template.get("Manufacturer") or "UNKNOWN"
    for name in ("ManufacturerModelName", "StationName", "DeviceSerialNumber", "SoftwareVersions"):
        if template.get(name):
            scanner[name] = template[name]
    drawer.PurposeOfReferenceCodeSequence = [code("109100", "DCM", "Synthesizing Equipment")]
    drawer.Manufacturer, drawer.ManufacturerModelName = "Fabrica", making.record.family[:64]
    drawer.SoftwareVersions, drawer.ContributionDescription = making.record.version[:64], making.contribution
    return [scanner, drawer]


def file_meta(ds: Any) -> Any:
    """Of an instance whose class and UID are set."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, UID(str(ds.SOPInstanceUID))
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(EXPLICIT), UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "FABRICA"
    return meta


def settled(ds: Any, making: Making, known: Mapping[str, Any]) -> Any:
    """An object of highdicom, marked, and the same bytes each time."""
    mark(ds, making)
    if ds.Modality != "SR":
        _region(ds, making.template)
    return same_each_time(ds, known, making.record.made)


def _region(ds: Any, template: Any) -> None:
    """Where in the body; where the source does not say it, laterality has to be said, though it is not known."""
    if region := template.get("BodyPartExamined"):
        ds.BodyPartExamined = region
    else:
        ds.Laterality = template.get("Laterality", "")


def same_each_time(ds: Any, known: Mapping[str, Any], when: str) -> Any:
    """No UID by chance, no time of day: those of highdicom follow from what is known, and from a time."""
    again: dict[str, str] = {}

    def replaced(within: Any, element: Any) -> None:
        if element.VR == "UI" and str(element.value).startswith(LIBRARY_ROOT):
            element.value = again.setdefault(str(element.value), uid_of({**known, "made": len(again)}))
        elif element.VR == "DT":
            element.value = moment(when)

    date(ds, when)
    ds.walk(replaced)
    ds.file_meta = file_meta(ds)
    return ds


def named(making: Making, known: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What every class of highdicom asks for: its UIDs, numbers and maker."""
    return {
        "series_instance_uid": uid_of(known), "series_number": number, "instance_number": 1,
        "sop_instance_uid": uid_of({**known, "instance": 1}), "manufacturer": "Fabrica",
        "manufacturer_model_name": making.record.family[:64], "software_versions": making.record.version[:64],
        "device_serial_number": making.record.weights[:64],
    }  # fmt: skip


def library() -> Any:
    """highdicom; raises ValueError where it is not installed."""
    try:
        import highdicom
    except ImportError as error:
        raise ValueError(f"highdicom is not installed. {EXTRA}") from error
    return highdicom
