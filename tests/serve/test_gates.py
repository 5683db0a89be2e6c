"""Gates and rules: what may be answered, and by which run; what is wrong is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabrica.deliver.objects.source import read_headers
from fabrica.serve.gates import faults, unread
from fabrica.serve.rules import chosen, read_rules

from ..deliver.conftest import trained  # noqa: F401 (fixtures)
from ..deliver.scanner import head, write_series


def _headers(folder: Path, **more: Any) -> list[Any]:
    volume, affine = head(planes=(16, 24))
    return read_headers(write_series(folder, volume, affine, **more))


def _turned(headers: list[Any]) -> list[Any]:
    headers[2].ImageOrientationPatient = [1, 0, 0, 0, 0.9, 0.436]
    return headers


def _moved(headers: list[Any], step: Callable[[int], list[float]]) -> list[Any]:
    for k, header in enumerate(headers):
        header.ImagePositionPatient = list(np.array(header.ImagePositionPatient, float) + step(k))
    return headers


def _set(headers: list[Any], number: int, **values: Any) -> list[Any]:
    for name, value in values.items():
        setattr(headers[number], name, value)
    return headers


PLANTED: dict[str, tuple[Callable[[list[Any]], list[Any]], str]] = {
    "planes that are missing": (lambda h: [*h[:3], *h[4:]], "planes are missing"),
    "two patients": (lambda h: _set(h, 1, PatientID="OTHER"), "2 different PatientID"),
    "two frames": (lambda h: _set(h, 1, FrameOfReferenceUID="1.2.3"), "2 different FrameOfReferenceUID"),
    "a localizer": (lambda h: _set(h, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
    "loss": (lambda h: _set(h, 3, LossyImageCompression="01"), "compressed with loss"),
    "synthetic": (lambda h: _set(h, 3, SyntheticData="YES"), "synthetic already"),
    "sizes": (lambda h: _set(h, 3, Rows=7), "2 different Rows"),
    "fewer than told": (lambda h: [_set(h, k, ImagesInAcquisition=20)[k] for k in range(len(h))], "8 images arrived of 20"),
    "another direction": (_turned, "not parallel"),
    "an image twice": (lambda h: [*h, h[0]], "where another lies"),
    "all at one place": (lambda h: [h[0], h[0]], "several images lie at one place"),
    "uneven steps": (lambda h: _moved(h, lambda k: [0, 0, 0.3 * (k % 2)]), "missing|evenly"),
    "a tilted gantry": (lambda h: _moved(h, lambda k: [0, 1.1 * k, 0]), "tilted gantry"),
    "no number": (lambda h: _set(h, 1, ImagePositionPatient=[float("nan"), 0, 0]), "do not say where they lie"),
    "no spacing": (lambda h: [_set(h, k, PixelSpacing=[0, 0])[k] for k in range(len(h))], "do not say where they lie"),
    "two spacings": (lambda h: _set(h, 1, PixelSpacing=[9, 9]), "2 different PixelSpacing"),
    "two echoes": (lambda h: _set(h, 1, EchoTime="99"), "2 different EchoTime"),
    "magnitude and phase": (lambda h: _set(h, 1, ImageType=["ORIGINAL", "PRIMARY", "P"]), "2 different ImageType"),
    "two names": (lambda h: _set(h, 1, PatientName="Other^One"), "2 different PatientName"),
    "directions askew": (lambda h: [_set(h, k, ImageOrientationPatient=[1, 0, 0, 0.5, 0.9, 0])[k] for k in range(len(h))], "do not say where they lie"),
    "frames beside planes": (lambda h: _set(h, 0, NumberOfFrames=20), "several frames"),
    "no place": (lambda h: _set(h, 1, ImagePositionPatient=None), "do not say where they lie"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_wrong_is_named(kind: str, tmp_path: Path) -> None:
    plant, words = PLANTED[kind]
    found = faults(plant(_headers(tmp_path)))
    assert found
    assert any(__import__("re").search(words, fault) for fault in found), found


@pytest.mark.parametrize("more", [{}, {"reverse": True}, {"ImagesInAcquisition": 8}])
def test_a_whole_series_passes_in_any_order(more: dict[str, Any], tmp_path: Path) -> None:
    headers = _headers(tmp_path, **more)
    assert faults(headers) == []
    assert faults(headers[::-1]) == []
    assert faults(_set(headers, 0, LossyImageCompression="01"), lossy=True) == []


def test_our_own_reader_has_to_read_all_of_it(tmp_path: Path) -> None:
    """Two stacks under one series UID pass no gate: a part is never answered as if it were whole."""
    volume, affine = head(planes=(16, 24))
    files = write_series(tmp_path / "a", volume, affine)
    assert unread(files) == []
    moved = affine.copy()
    moved[:3, 3] += (0, 0, 500)
    other = write_series(tmp_path / "b", volume, moved, SeriesInstanceUID=str(read_headers(files)[0].SeriesInstanceUID))
    assert unread([*files, *other])


@pytest.fixture
def rules(trained: Path, tmp_path: Path) -> Callable[[str], Path]:  # noqa: F811
    def written(text: str) -> Path:
        path = tmp_path / "rules.yaml"
        path.write_text(text.replace("RUN", str(trained)).replace("OUT", f"folder:{tmp_path / 'there'}"))
        return path

    return written


def test_the_first_rule_that_fits_is_taken(rules: Callable[[str], Path], tmp_path: Path) -> None:
    found = read_rules(rules("""
- {when: {modality: CT}, run: RUN, to: OUT}
- {when: {modality: MR, description: T1W, slices: [4, 10], thickness_mm: [3, 5]}, run: RUN, to: OUT, draws: 2, accept: unreviewed}
- {when: {modality: MR}, run: RUN, to: OUT}
"""))  # fmt: skip
    headers = _headers(tmp_path / "scan")
    rule, why = chosen(found, headers)
    assert (rule, why) == (found[1], "")
    assert rule is not None
    assert (rule.draws, rule.accept) == (2, "unreviewed")
    assert chosen(found, headers[:2])[0] is found[2]
    rule, why = chosen(found[:1], headers)
    assert rule is None
    assert why == "rule 1: modality is MR, asked for CT"
    odd = _set(headers, -1, SeriesDescription="of Ms Secret")
    assert found[1].misfit(odd) == "description is another, asked for T1W"  # its words may name somebody
    _set(headers, -1, SeriesDescription=headers[0].SeriesDescription)
    assert "thickness_mm is not said" in found[1].misfit(_without(headers, "SliceThickness"))


def _without(headers: list[Any], name: str) -> list[Any]:
    for header in headers:
        del header[name]
    return headers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no YAML"), ("{run: RUN}", "no list of rules"), ("[]", "no list of rules"), ("- 3", "rule 1 is no rule"), ("- {run: RUN}", "to is missing"),
        ("- {run: RUN, to: OUT, whem: {}}", "whem is not known"), ("- {run: RUN, to: OUT, when: {sex: F}}", "sex is not known"), ("- {run: /nowhere, to: OUT}", "is no run"),
        ("- {run: RUN, to: 'ftp:x'}", "is no destination"), ("- {run: RUN, to: OUT, accept: nobody}", "accept is"), ("- {run: RUN, to: OUT, draws: 0}", "draws is a number"),
        ("- {run: RUN, to: OUT, when: {slices: many}}", "Write one number"), ("- {run: RUN, to: OUT, lossy: 1}", "lossy true or false"), ("- {run: RUN, to: OUT, shift: perhaps}", "Write warn or refuse"), ("- {run: RUN, to: none.yaml}", "There is no file"),
        ("- {run: RUN, to: OUT, registry: none}", "is no folder of approved models"),
    ],
)  # fmt: skip
def test_rules_that_are_wrong_are_refused_in_one_line(text: str, words: str, rules: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=words):
        read_rules(rules(text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file"):
        read_rules(tmp_path / "none.yaml")
