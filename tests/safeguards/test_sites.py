"""A site left out: told where its scans differ, not told where they do not, and never where nothing can be said."""

import numpy as np

from fabrica.safeguards.sites import in_words, leave_one_site_out

Rows = list[dict[str, dict[str, np.ndarray]]]


def _rows(count: int, seed: int, far: float = 0.0, contrast: str = "T1w") -> Rows:
    rng = np.random.default_rng(seed)
    return [{contrast: {"intensity": rng.normal(size=6) + far, "grid": rng.normal(size=3)}} for _ in range(count)]


def test_a_site_that_scans_otherwise_is_told_and_the_others_false_alarms_are_counted() -> None:
    found, unseen = leave_one_site_out({"a": _rows(60, 0), "b": _rows(60, 1), "c": _rows(20, 2, far=8.0)})
    assert not unseen
    a, b, c = found
    assert c.auc > 0.95
    assert c.told > 0.9
    assert c.alarms < 0.25
    assert c.kind == "T1w intensity"
    assert c.p_value < 1e-4
    assert c.interval is None or c.interval[0] <= c.auc <= c.interval[1]
    assert (c.patients, c.others) == (20, 40)
    assert c.noticed
    assert a.interval is not None
    assert a.interval[0] <= a.auc <= a.interval[1]
    assert "c: had training not seen it, it would have been noticed" in in_words(c)
    assert a.told <= 0.2  # most of the others scan as it does
    assert b.told <= 0.2


def test_sites_that_scan_alike_are_as_seldom_told_as_anybody() -> None:
    shares, areas = [], []
    for k in range(20):
        found, _ = leave_one_site_out({"a": _rows(40, 3 * k), "b": _rows(60, 3 * k + 1)}, seed=k)
        (a,) = [row for row in found if row.site == "a"]
        shares.append(a.told)
        areas.append(a.auc)
    assert np.mean(shares) <= 0.05 + 3 * (0.05 * 0.95 / (20 * 20)) ** 0.5
    assert abs(np.mean(areas) - 0.5) < 0.06


def test_sites_that_are_wholly_apart_have_no_interval() -> None:
    (b,) = [r for r in leave_one_site_out({"a": _rows(60, 0), "b": _rows(10, 1, far=50.0)})[0] if r.site == "b"]
    assert (b.auc, b.interval) == (1.0, None)  # none can be told, and none is made up


def test_what_cannot_be_said_is_not_said() -> None:
    assert leave_one_site_out({"a": _rows(90, 0)}) == ([], ["all scans come from one site, or nobody says from which"])
    found, unseen = leave_one_site_out({"a": _rows(60, 0), "b": _rows(4, 1)})
    assert [row.site for row in found] == []
    assert unseen == [
        "without a there are 4 patients, 57 are needed", "b has 4 patients, 5 are needed",
    ]  # fmt: skip
    found, unseen = leave_one_site_out({"a": _rows(60, 0), "b": _rows(60, 1, contrast="FLAIR")})
    assert not found
    assert all("can be held against those of the others" in line for line in unseen)


def test_scans_that_do_not_say_where_they_lie_end_no_audit() -> None:
    mixed = _rows(60, 0)
    for row in mixed[::2]:
        row["T1w"]["grid"] = row["T1w"]["grid"][:2]
    found, unseen = leave_one_site_out({"a": mixed, "b": _rows(60, 1)})
    assert [row.site for row in found] in ([], ["a"])
    assert any("some say where they lie" in line for line in unseen)


def test_a_small_site_that_scans_alike_is_seldom_said_to_have_been_noticed() -> None:
    noticed = []
    for k in range(60):
        found, _ = leave_one_site_out({"a": _rows(5, 3 * k), "b": _rows(60, 3 * k + 1)}, seed=k)
        noticed += [row.noticed for row in found if row.site == "a"]
    assert len(noticed) == 60
    assert np.mean(noticed) <= 0.05


def test_the_same_seed_says_the_same() -> None:
    sites = {"a": _rows(60, 0), "b": _rows(60, 1)}
    assert leave_one_site_out(sites, 3) == leave_one_site_out(sites, 3)
