"""IBSI-1's digital phantom to the digits of its manual; laws; wrong input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabrica.evaluate.sets.feature import radiomics

SLICES = (
    ((1, 4, 4, 1, 1), (1, 4, 6, 1, 1), (4, 1, 6, 4, 1), (4, 4, 6, 4, 1)),
    ((1, 4, 4, 1, 1), (1, 1, 6, 1, 1), (0, 1, 3, 1, 1), (4, 4, 6, 1, 1)),
    ((1, 4, 4, 0, 0), (1, 1, 1, 1, 1), (1, 1, 0, 1, 1), (1, 1, 6, 1, 1)),
    ((1, 4, 4, 0, 0), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 6, 1, 1)),
)
PHANTOM = np.array(SLICES, float)  # CC BY 4.0, Image Biomarker Standardisation Initiative; 0 is outside
STATISTICS = {
    "mean": 2.15, "variance": 3.05, "skewness": 1.08, "excess_kurtosis": -0.355, "median": 1, "minimum": 1, "percentile_10": 1,
    "percentile_90": 4, "maximum": 6, "interquartile_range": 3, "range": 5, "mean_absolute_deviation": 1.55,
    "robust_mean_absolute_deviation": 1.11, "median_absolute_deviation": 1.15, "coefficient_of_variation": 0.812,
    "quartile_coefficient_of_dispersion": 0.6,
}  # fmt: skip
REFERENCE = {  # IBSI-1 reference manual, digital phantom; textures 3D merged. "TOLERANCE" where the manual has one
    **{f"statistics_{k}": v for k, v in STATISTICS.items()}, "statistics_energy": 567, "statistics_root_mean_square": 2.77,
    **{f"histogram_{k}": v for k, v in STATISTICS.items()}, "histogram_mode": 1, "histogram_entropy": 1.27,
    "histogram_uniformity": 0.512, "histogram_maximum_gradient": 8, "histogram_maximum_gradient_level": 3,
    "histogram_minimum_gradient": -50, "histogram_minimum_gradient_level": 1,
    "shape_voxel_volume_mm3": 592, "shape_surface_to_volume_ratio_per_mm": 0.698, "shape_compactness_1": 0.0411,
    "shape_compactness_2": 0.599, "shape_spherical_disproportion": 1.19, "shape_sphericity": 0.843, "shape_asphericity": 0.186,
    "shape_centre_of_mass_shift_mm": 0.672, "shape_maximum_diameter_mm": 13.1, "shape_major_axis_mm": 11.4,
    "shape_minor_axis_mm": 9.31, "shape_least_axis_mm": 8.54, "shape_elongation": 0.816, "shape_flatness": 0.749,
    "shape_volume_density_box": 0.869, "shape_area_density_box": 0.866, "shape_volume_density_ellipsoid": 1.17,
    "shape_area_density_ellipsoid": 1.36, "shape_volume_density_hull": 0.961, "shape_area_density_hull": 1.03,
    "shape_morans_i": 0.0397, "shape_gearys_c": 0.974,
    "glcm_joint_maximum": 0.509, "glcm_joint_average": 2.15, "glcm_joint_variance": 3.13, "glcm_joint_entropy": 2.57,
    "glcm_difference_average": 1.38, "glcm_difference_variance": 3.21, "glcm_difference_entropy": 1.64, "glcm_sum_average": 4.3,
    "glcm_sum_variance": 7.41, "glcm_sum_entropy": 2.11, "glcm_angular_second_moment": 0.291, "glcm_contrast": 5.12,
    "glcm_dissimilarity": 1.38, "glcm_inverse_difference": 0.688, "glcm_normalised_inverse_difference": 0.856,
    "glcm_inverse_difference_moment": 0.631, "glcm_normalised_inverse_difference_moment": 0.902, "glcm_inverse_variance": 0.0574,
    "glcm_correlation": 0.183, "glcm_autocorrelation": 5.19, "glcm_cluster_tendency": 7.41, "glcm_cluster_shade": 17.4,
    "glcm_cluster_prominence": 147, "glcm_information_correlation_1": -0.0288, "glcm_information_correlation_2": 0.269,
    "glrlm_short_run_emphasis": 0.729, "glrlm_long_run_emphasis": 2.76, "glrlm_low_grey_level_run_emphasis": 0.607,
    "glrlm_high_grey_level_run_emphasis": 9.64, "glrlm_short_run_low_grey_level_emphasis": 0.372,
    "glrlm_short_run_high_grey_level_emphasis": 8.67, "glrlm_long_run_low_grey_level_emphasis": 2.16,
    "glrlm_long_run_high_grey_level_emphasis": 15.6, "glrlm_grey_level_non_uniformity": 281,
    "glrlm_normalised_grey_level_non_uniformity": 0.43, "glrlm_run_length_non_uniformity": 328,
    "glrlm_normalised_run_length_non_uniformity": 0.501, "glrlm_run_percentage": 0.68, "glrlm_grey_level_variance": 3.48,
    "glrlm_run_length_variance": 0.598, "glrlm_run_entropy": 2.62,
    "glszm_small_zone_emphasis": 0.255, "glszm_large_zone_emphasis": 550, "glszm_low_grey_level_zone_emphasis": 0.253,
    "glszm_high_grey_level_zone_emphasis": 15.6, "glszm_small_zone_low_grey_level_emphasis": 0.0256,
    "glszm_small_zone_high_grey_level_emphasis": 2.76, "glszm_large_zone_low_grey_level_emphasis": 503,
    "glszm_large_zone_high_grey_level_emphasis": 1495, "glszm_grey_level_non_uniformity": 1.4,
    "glszm_normalised_grey_level_non_uniformity": 0.28, "glszm_zone_size_non_uniformity": 1,
    "glszm_normalised_zone_size_non_uniformity": 0.2, "glszm_zone_percentage": 0.0676, "glszm_grey_level_variance": 2.64,
    "glszm_zone_size_variance": 331, "glszm_zone_size_entropy": 2.32,
    "gldzm_small_distance_emphasis": 1, "gldzm_large_distance_emphasis": 1, "gldzm_low_grey_level_zone_emphasis": 0.253,
    "gldzm_high_grey_level_zone_emphasis": 15.6, "gldzm_small_distance_low_grey_level_emphasis": 0.253,
    "gldzm_small_distance_high_grey_level_emphasis": 15.6, "gldzm_large_distance_low_grey_level_emphasis": 0.253,
    "gldzm_large_distance_high_grey_level_emphasis": 15.6, "gldzm_grey_level_non_uniformity": 1.4,
    "gldzm_normalised_grey_level_non_uniformity": 0.28, "gldzm_zone_distance_non_uniformity": 5,
    "gldzm_normalised_zone_distance_non_uniformity": 1, "gldzm_zone_percentage": 0.0676, "gldzm_grey_level_variance": 2.64,
    "gldzm_zone_distance_variance": 0, "gldzm_zone_distance_entropy": 1.92,
    "ngtdm_coarseness": 0.0296, "ngtdm_contrast": 0.584, "ngtdm_busyness": 6.54, "ngtdm_complexity": 13.5, "ngtdm_strength": 0.763,
    "ngldm_low_dependence_emphasis": 0.045, "ngldm_high_dependence_emphasis": 109, "ngldm_low_grey_level_count_emphasis": 0.693,
    "ngldm_high_grey_level_count_emphasis": 7.66, "ngldm_low_dependence_low_grey_level_emphasis": 0.00963,
    "ngldm_low_dependence_high_grey_level_emphasis": 0.736, "ngldm_high_dependence_low_grey_level_emphasis": 102,
    "ngldm_high_dependence_high_grey_level_emphasis": 235, "ngldm_grey_level_non_uniformity": 37.9,
    "ngldm_normalised_grey_level_non_uniformity": 0.512, "ngldm_dependence_count_non_uniformity": 4.86,
    "ngldm_normalised_dependence_count_non_uniformity": 0.0657, "ngldm_dependence_count_percentage": 1,
    "ngldm_grey_level_variance": 3.05, "ngldm_dependence_count_variance": 22.1, "ngldm_dependence_count_entropy": 4.4,
    "ngldm_dependence_count_energy": 0.0533,
}  # fmt: skip
TOLERANCE = {
    "shape_mesh_volume_mm3": (556, 4),
    "shape_surface_area_mm2": (388, 3),
    "shape_integrated_intensity": (1195, 10),
}


@pytest.fixture(scope="module")
def phantom() -> dict[str, float]:
    return radiomics(PHANTOM, PHANTOM > 0, (2, 2, 2), 1)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_digital_phantom_to_three_digits(phantom: dict[str, float], name: str) -> None:
    wanted = REFERENCE[name]
    assert phantom[name] == pytest.approx(wanted, rel=6e-3, abs=1e-12), f"{phantom[name]:.5g}"


def test_the_digital_phantom_within_its_tolerances_and_nothing_untested(phantom: dict[str, float]) -> None:
    for name, (wanted, tolerance) in TOLERANCE.items():
        assert phantom[name] == pytest.approx(wanted, abs=tolerance)
    assert phantom.keys() == REFERENCE.keys() | TOLERANCE.keys()


def test_directions_averaged() -> None:
    found = radiomics(PHANTOM, PHANTOM > 0, (2, 2, 2), 1, aggregation="averaged")
    wanted = {
        "joint_maximum": 0.503, "joint_entropy": 2.40, "angular_second_moment": 0.303, "contrast": 5.32, "correlation": 0.157,
        "information_correlation_1": -0.157, "information_correlation_2": 0.520, "cluster_prominence": 145,
    }  # fmt: skip
    for name, value in wanted.items():
        assert found[f"glcm_{name}"] == pytest.approx(value, rel=6e-3)


REGIONS = st.integers(0, 10_000).map(lambda seed: _region(seed))


def _region(seed: int, axes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 7, axes))
    inside = rng.random(shape) < 0.8
    inside.flat[0] = inside.flat[-1] = True
    return rng.integers(0, 6, shape) * 10.0, inside


@settings(max_examples=25, deadline=None)
@given(REGIONS)
def test_what_must_not_matter(region: tuple[np.ndarray, np.ndarray]) -> None:
    """An offset, a gain with its bins, the order of the axes, mirror images, room around the region, values outside it."""
    image, inside = region
    own = radiomics(image, inside, (1.0, 2.0, 3.0), 10)
    textures = [k for k in own if k.split("_")[0] in ("glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm", "histogram")]
    shapes = [
        k
        for k in own
        if k.startswith("shape") and k not in ("shape_integrated_intensity", "shape_centre_of_mass_shift_mm")
    ]
    same = {
        "offset": (radiomics(image + 70, inside, (1.0, 2.0, 3.0), 10), textures + shapes),
        "gain": (radiomics(image * 4, inside, (1.0, 2.0, 3.0), 40), textures + shapes),
        "axes": (radiomics(image.transpose(2, 0, 1), inside.transpose(2, 0, 1), (3.0, 1.0, 2.0), 10), list(own)),
        "mirror": (radiomics(image[:, ::-1], inside[:, ::-1], (1.0, 2.0, 3.0), 10), list(own)),
        "room": (radiomics(np.pad(image, 3), np.pad(inside, 3), (1.0, 2.0, 3.0), 10), list(own)),
        "outside": (radiomics(np.where(inside, image, np.nan), inside, (1.0, 2.0, 3.0), 10), list(own)),
    }
    for what, (found, names) in same.items():
        for name in names:
            assert found[name] == pytest.approx(own[name], rel=1e-6, abs=1e-9), (what, name)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_every_feature_of_every_region_is_finite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(2, 4))
    image, inside = _region(seed, axes)
    if seed % 3 == 0:  # one voxel, one line, one value
        inside[:] = False
        inside[(0,) * axes] = True
    if seed % 3 == 1:
        image[:] = 5.0
    found = radiomics(image, inside, (1.0,) * axes, 10)
    assert all(np.isfinite(v) for v in found.values()), [k for k, v in found.items() if not np.isfinite(v)]


def test_a_disc_and_a_ball() -> None:
    y, x = np.mgrid[-40:41, -40:41]
    disc = radiomics(np.ones((81, 81)), np.hypot(y, x) <= 30, (0.5, 0.5), 1)
    assert disc["shape_mesh_area_mm2"] == pytest.approx(np.pi * 15**2, rel=0.01)
    assert disc["shape_maximum_diameter_mm"] == pytest.approx(30, rel=0.03)
    assert disc["shape_elongation"] == pytest.approx(1)
    z, y, x = np.mgrid[-20:21, -20:21, -20:21]
    ball = radiomics(np.ones((41,) * 3), z**2 + y**2 + x**2 <= 15**2, (2, 2, 2), 1)
    assert ball["shape_mesh_volume_mm3"] == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.02)
    assert ball["shape_flatness"] == pytest.approx(1, rel=1e-6)
    assert 0.9 < ball["shape_sphericity"] < 1
    assert ball["shape_volume_density_ellipsoid"] == pytest.approx(5 * 5**0.5 / 8, rel=0.02)  # axes are 4 deviations


def test_a_chessboard_has_no_runs_and_two_zones() -> None:
    board = np.indices((8, 8)).sum(0) % 2 * 1.0
    found = radiomics(board, np.ones((8, 8)), (1, 1), 1)
    assert found["glszm_zone_percentage"] == pytest.approx(2 / 64)  # touching at corners counts
    assert found["ngldm_high_dependence_emphasis"] < 25.0 + 1e-9
    assert found["histogram_entropy"] == pytest.approx(1)
    striped = radiomics(np.indices((8, 8))[0] % 2 * 1.0, np.ones((8, 8)), (1, 1), 1)
    assert striped["glrlm_long_run_emphasis"] > 3 * found["glrlm_short_run_emphasis"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((4, 4, 5))}, "mask is empty"),
        ({"mask": np.ones((4, 4))}, r"mask of \(4, 4\)"),
        ({"spacing_mm": (1, 1)}, "expected 3 positive numbers"),
        ({"spacing_mm": (1, 1, 0)}, "expected 3 positive numbers"),
        ({"spacing_mm": (1, 1, np.nan)}, "expected 3 positive numbers"),
        ({"bin_width": 0}, "expected a positive number"),
        ({"bin_width": np.nan}, "expected a positive number"),
        ({"bin_width": 1e-4}, r"gives 5000\d grey levels, expected at most 1024"),
        ({"image": np.full((4, 4, 5), np.nan)}, "NaN or infinity inside the mask"),
        ({"aggregation": "mean"}, "expected 'merged' or 'averaged'"),
    ],
)
def test_wrong_input_is_answered_in_words(change: dict[str, object], message: str) -> None:
    given = {"image": PHANTOM, "mask": PHANTOM > 0, "spacing_mm": (2, 2, 2), "bin_width": 1, **change}
    with pytest.raises(ValueError, match=message):
        radiomics(**given)  # type: ignore[arg-type]


def test_a_region_of_two_voxels_has_finite_features() -> None:
    """Nothing lies between their percentiles: the robust deviation is that of both."""
    image, inside = np.zeros((6, 6)), np.zeros((6, 6), bool)
    image[2, 2], image[2, 3] = 1.0, 3.0
    inside[2, 2:4] = True
    found = radiomics(image, inside, (1.0, 1.0), 1.0)
    assert found["statistics_robust_mean_absolute_deviation"] == pytest.approx(1.0)
    assert all(np.isfinite(v) for v in found.values())
