"""One file after the other: each attribute by its rule, nested ones too, and the same answer for the same patient."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from ... import __version__
from .profile import CODES, EDITION, Options, rules
from .words import cleaned, technical

STANDARD_ROOT = "1.2.840.10008."  # UIDs that the standard gives: they are of no one
FURTHEST_DAYS = 3650  # that dates are moved back
DUMMIES = {
    "PN": "ANONYMOUS", "LO": "ANONYMIZED", "SH": "ANONYMIZED", "ST": "ANONYMIZED", "LT": "ANONYMIZED",
    "UT": "ANONYMIZED", "UC": "ANONYMIZED", "CS": "ANONYMIZED", "AE": "ANONYMIZED", "UR": "ANONYMIZED",
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "DS": "0", "IS": "0",
    "US": 0, "SS": 0, "UL": 0, "SL": 0, "UV": 0, "SV": 0, "FL": 0.0, "FD": 0.0,
}  # fmt: skip
TEXT = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "CS", "AE", "UR")
NAMING = (  # whose words must not be found anywhere else
    "PatientID", "OtherPatientIDs", "AccessionNumber", "InstitutionName", "InstitutionAddress", "StationName",
    "DeviceSerialNumber", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers", "MilitaryRank",
    "IssuerOfPatientID",
)  # fmt: skip
SHORTEST = 4  # letters of a word that is looked for
BURNED = ("US", "XA", "RF", "SC", "ES", "OT", "XC", "GM", "OP", "DG", "IVUS")  # modalities that write into pixels
DOCUMENTS, RAW = "1.2.840.10008.5.1.4.1.1.104.", "1.2.840.10008.5.1.4.1.1.66"  # encapsulated files, raw data
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # SOP classes of secondary captures
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
BYTES = ("OB", "OW", "OD", "OF", "OL", "OV", "UN")
NAMED_UIDS = ("ClassUID", "SchemeUID", "SyntaxUID", "ContextUID", "MappingResourceUID")  # they are of no one
NOBODY = {"none", "anonymous", "anonymized", "unknown", "dr.", "dr", "mr", "mrs", "ms", "prof", "prof.", "md", "jr"}


class RefusedError(Exception):
    """A file that cannot be made safe here, and why."""


@dataclass
class Deidentifier:
    """By a key: whoever has it gives the same patient the same name again, whoever has not cannot.

    Counts what was done, by action.
    """

    key: bytes
    options: Options = field(default_factory=Options)
    burned_in: bool = False  # whether pixels that may hold words are let through
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if len(self.key) < 16:
            raise ValueError(f"The key has {len(self.key)} bytes, expected at least 16.")

    def applied(self, ds: Any, faceless: bool = False) -> Any:
        """A data set with its file meta that names no one; the given one is not changed. Raises RefusedError.

        `faceless`: whether a face was taken out of its pixels.
        """
        from pydicom.dataset import Dataset

        self._check(ds)
        patient = _patient(ds)
        found = _Found(self, patient)
        made = Dataset()
        made.update(found.cleaned(ds))
        found.blank_words_of(ds, made)
        _bare_pixels(ds, made)
        self._mark(made, faceless)
        made.PatientID = made.PatientName = self.pseudonym(patient)
        made.file_meta = _meta(ds, made)
        return made

    def pseudonym(self, patient: str) -> str:
        """Of a patient, the same for all files."""
        return "ANON-" + base64.b32encode(self._keyed("patient", patient))[:12].decode()

    def uid(self, known: str) -> str:
        """2.25 and 128 bits that follow from a UID and the key: references stay references."""
        return f"2.25.{int.from_bytes(self._keyed('uid', known)[:16], 'big')}"

    def days(self, patient: str) -> int:
        """By which a patient's dates move, always back."""
        return -1 - int.from_bytes(self._keyed("days", patient)[:4], "big") % FURTHEST_DAYS

    def _keyed(self, what: str, text: str) -> bytes:
        return hmac.new(self.key, f"{what}\0{text}".encode(), hashlib.sha256).digest()

    def _check(self, ds: Any) -> None:
        kind, modality = str(ds.get("SOPClassUID", "")), str(ds.get("Modality", ""))
        if kind.startswith(DOCUMENTS) or kind == RAW or "EncapsulatedDocument" in ds:
            raise RefusedError("it holds a document or raw data, which may name anyone")
        if "PixelData" not in ds:
            return
        if not ds.file_meta.TransferSyntaxUID.is_compressed and len(ds.PixelData) < _pixel_bytes(ds):
            raise RefusedError("its pixels are cut off")
        if self.burned_in:
            return
        said, types = str(ds.get("BurnedInAnnotation", "")), str(ds.get("ImageType", "")).upper()
        captured = kind.startswith(CAPTURES) or "SCREEN" in types or "ConversionType" in ds
        if said == "YES" or (said != "NO" and (modality in BURNED or captured)):
            raise RefusedError(f"its pixels may hold words (Burned In Annotation is {said or 'absent'}, {modality})")

    def _mark(self, ds: Any, faceless: bool) -> None:
        from pydicom.dataset import Dataset

        chosen = ["profile", *sorted(self.options.chosen | ({"faces"} if faceless else set()))]
        if faceless:
            ds.RecognizableVisualFeatures = "NO"
        ds.PatientIdentityRemoved = "YES"
        ds.DeidentificationMethod = [f"Fabrica {__version__}"[:64], f"PS3.15 {EDITION} Table E.1-1", *chosen[1:]]
        ds.DeidentificationMethodCodeSequence = []
        for name in chosen:
            item = Dataset()
            item.CodeValue, item.CodeMeaning = CODES[name]
            item.CodingSchemeDesignator = "DCM"
            ds.DeidentificationMethodCodeSequence.append(item)
        told = {"remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED"}
        ds.LongitudinalTemporalInformationModified = told[self.options.dates]


class _Found:
    """One file on its way."""

    def __init__(self, by: Deidentifier, patient: str) -> None:
        self.by, self.patient, self.chosen = by, patient, by.options.chosen

    def cleaned(self, ds: Any) -> Any:
        """Each element by its rule."""
        from pydicom.dataset import Dataset

        made = Dataset()
        for element in ds:
            self._element(made, element)
        return made

    def _element(self, made: Any, element: Any) -> None:
        from pydicom.datadict import dictionary_has_tag

        tag = element.tag
        drawn_over = 0x5000 <= tag.group <= 0x501E or 0x6000 <= tag.group <= 0x60FF  # curves and overlays
        if tag.is_private or drawn_over or not dictionary_has_tag(tag):
            self.by.done["removed"] += 1
            return
        rule = rules().get(int(tag))
        self._by_letter(made, element, rule.under(self.chosen) if rule else self._unruled(element))

    def _unruled(self, element: Any) -> str:
        """What becomes of an attribute that the table does not name: text is kept where it is technical, else known
        words of it; bytes are pixels and their tables or nothing.
        """
        if element.VR == "PN":
            return "D"
        if element.VR in ("DA", "DT"):
            return {"remove": "D", "shift": "C", "keep": "K"}[self.by.options.dates]
        if element.VR == "UI":
            return "K" if element.keyword.endswith(NAMED_UIDS) else "U"
        if element.VR in ("LO", "SH", "ST", "LT", "UT", "UC", "UR"):
            return "K" if element.keyword in technical() else "Z" if element.VR == "UR" else "C"
        if element.VR in BYTES:
            return "K" if element.keyword in PIXELS or "LUT" in element.keyword or "Palette" in element.keyword else "X"
        return "K"

    def _by_letter(self, made: Any, element: Any, action: str) -> None:
        {
            "X": self._removed, "Z": self._emptied, "D": self._replaced, "U": self._renamed, "K": self._kept,
            "C": self._swept,
        }[action](made, element)  # fmt: skip

    def _removed(self, made: Any, element: Any) -> None:
        self.by.done["removed"] += 1

    def _emptied(self, made: Any, element: Any) -> None:
        self.by.done["emptied"] += 1
        made.add_new(element.tag, element.VR, [] if element.VR == "SQ" else None)

    def _replaced(self, made: Any, element: Any) -> None:
        self.by.done["replaced"] += 1
        if element.VR == "SQ":
            self._kept(made, element)
        elif element.VR in DUMMIES:
            made.add_new(element.tag, element.VR, DUMMIES[element.VR])
        elif element.VR == "UI":
            self._renamed(made, element)
        else:  # bytes
            made.add_new(element.tag, element.VR, b"\0" * max(2, len(element.value or b"") // 2 * 2))

    def _renamed(self, made: Any, element: Any) -> None:
        if element.VR == "SQ":
            self._kept(made, element)
            return
        values = _values(element)
        told = [v if v.startswith(STANDARD_ROOT) or "uids" in self.chosen else self.by.uid(v) for v in values]
        self.by.done["renamed"] += sum(a != b for a, b in zip(values, told, strict=True))
        made.add_new(element.tag, "UI", told if len(told) != 1 else told[0])

    def _kept(self, made: Any, element: Any) -> None:
        if element.VR == "SQ":
            made.add_new(element.tag, "SQ", [self.cleaned(item) for item in element.value])
        else:
            made.add(element)

    def _swept(self, made: Any, element: Any) -> None:
        """Dates are moved, words that may name someone are taken out."""
        if element.VR in ("DA", "DT"):
            self._moved(made, element)
        elif element.VR == "TM":
            self._kept(made, element)
        elif element.VR in TEXT:
            told = [cleaned(value) for value in _values(element)]
            if not any(told):  # nothing is left of it
                rule, bare = rules().get(int(element.tag)), "D" if any(_values(element)) else "K"
                self._by_letter(made, element, rule.under(frozenset()) if rule else bare)
                return
            self.by.done["cleaned"] += 1
            made.add_new(element.tag, element.VR, told)
        else:
            self._replaced(made, element)

    def _moved(self, made: Any, element: Any) -> None:
        values = _values(element)
        told = [moved(v, self.by.days(self.patient)) for v in values]
        self.by.done["moved"] += len(told)
        made.add_new(element.tag, element.VR, told or None)

    def blank_words_of(self, ds: Any, made: Any) -> None:
        """The last net: names and numbers of the patient that another attribute repeats. It is emptied as a whole."""
        names, numbers = _naming_words(ds)
        within = re.compile(_any_of(w for w in names | numbers if len(w) >= SHORTEST or _ideographic(w)))
        few = _any_of(w for w in names if len(w) < SHORTEST and not _ideographic(w))
        short = re.compile(rf"(?<![^\W\d_])({few})(?![^\W\d_])")  # between anything but letters
        digits = {bare for w in numbers if len(bare := re.sub(r"[\W_]", "", w)) >= 5}

        def named(element: Any, value: str) -> bool:
            text = value.casefold()
            if element.VR == "CS":  # terms of the standard: a known one is no name, a short one no word
                return bool(within.search(text)) and not cleaned(value)
            bare = re.sub(r"[\W_]", "", text)
            return bool(within.search(text) or short.search(text)) or any(d in bare for d in digits)

        def blanked(_: Any, element: Any) -> None:
            if element.VR not in (*TEXT, "IS") or not element.value:
                return
            values = _values(element)
            told = [DUMMIES[element.VR] if named(element, value) else value for value in values]
            if told != values:
                self.by.done["found elsewhere"] += 1
                element.value = told

        made.walk(blanked)


def _patient(ds: Any) -> str:
    """Who it is; raises RefusedError where a file says nothing at all of that. Who issued a number does not count: some
    series of a patient say it and some do not.
    """
    if known := str(ds.get("PatientID", "")).strip():
        return known
    named = (str(ds.get("PatientName", "")).strip(), str(ds.get("PatientBirthDate", "")).strip())
    if any(named):
        return "\0".join(named)
    if ds.get("StudyInstanceUID"):
        return str(ds.StudyInstanceUID)
    raise RefusedError("it names neither patient nor study: nobody can say whose it is")


def _naming_words(ds: Any) -> tuple[set[str], set[str]]:
    """(words of persons' names, those of numbers and places), folded; of the latter none that descriptions use."""
    names, numbers = set[str](), set[str]()

    def gathered(_: Any, element: Any) -> None:
        if element.VR != "PN" and element.keyword not in NAMING:
            return
        for value in _values(element):
            words = [w.casefold() for w in re.split(r"[\s^=\\,;/]+", value) if len(w) > 1]
            words += [part for w in words for part in w.split("-") if len(part) > 1]
            if element.VR == "PN":
                names.update(words)
            else:
                numbers.update(w for w in words if len(w) >= SHORTEST and not cleaned(w))

    ds.walk(gathered)
    return names - NOBODY, numbers - NOBODY


def _pixel_bytes(ds: Any) -> int:
    """How many bytes its pixels take; raises RefusedError where it does not say."""
    if missing := [name for name in ("BitsAllocated", "Rows", "Columns") if ds.get(name) is None]:
        raise RefusedError(f"its pixels cannot be read: {missing[0]} is missing")
    bits = int(ds.BitsAllocated) * int(ds.Rows) * int(ds.Columns) * int(ds.get("SamplesPerPixel", 1))
    frames = int(ds.get("NumberOfFrames") or 1)
    subsampled = "422" in str(ds.get("PhotometricInterpretation", ""))
    return bits * frames // 8 * (2 if subsampled else 3) // 3


def _values(element: Any) -> list[str]:
    """Each by itself, as text; none of an empty one."""
    if element.VM == 0:
        return []
    return [str(v) for v in (element.value if element.VM > 1 else [element.value])]


def _ideographic(word: str) -> bool:
    """Written without spaces around it: it is looked for within words."""
    return any(ord(c) >= 0x2E80 for c in word)


def _any_of(words: Iterable[str]) -> str:
    """A pattern of any of them; of none it matches nothing."""
    return "|".join(map(re.escape, sorted(words))) or "(?!)"


def moved(text: str, days: int) -> str:
    """A DA or DT some days on; what is no whole date is taken out."""
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})(\d{0,6}(?:\.\d{1,6})?(?:[+-]\d{4})?)", text.strip())
    if match is None:
        return ""
    try:
        return (date(*map(int, match.groups()[:3])) + timedelta(days)).strftime("%Y%m%d") + match[4]
    except (ValueError, OverflowError):
        return ""


def _bare_pixels(ds: Any, made: Any) -> None:
    """Uncompressed pixels and nothing else: no bytes behind them, nothing in bits that no pixel uses (old overlays)."""
    import numpy as np

    if "PixelData" not in made:
        return
    embedded = any((g, 0x0102) in ds and int(ds[g, 0x0102].value or 0) for g in range(0x6000, 0x6100, 2))
    stored, allocated, high = int(ds.BitsStored), int(ds.BitsAllocated), int(ds.HighBit)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        if embedded:
            raise RefusedError("its pixels hold overlays in unused bits, which cannot be taken out of compressed ones")
        return
    content = bytes(made.PixelData[: _pixel_bytes(ds)])
    if embedded:
        if allocated not in (8, 16):
            raise RefusedError(f"its pixels of {allocated} bits hold overlays, which cannot be taken out")
        kind = "<u2" if allocated == 16 else "u1"
        content = (np.frombuffer(content, kind) & ((1 << stored) - 1) << (high + 1 - stored)).astype(kind).tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)


def _meta(ds: Any, made: Any) -> Any:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    from ..objects.marking import IMPLEMENTATION

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ds.file_meta.TransferSyntaxUID, UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "FABRICA"
    return meta
