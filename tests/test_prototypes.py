from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats
import torch
from monai.data import MetaTensor
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from anatodiff.transforms import Binarize, ShapePrototypes
from anatodiff.transforms.prototypes import density_peak_clusters

SIDE = 24
METHODS = ("kmeans", "density_peak")


def discs(n: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """(n, 1, SIDE, SIDE) discs of random place and size, with a share of the pixels flipped."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:SIDE, :SIDE]
    centre, radius = rng.uniform(6, SIDE - 6, (n, 2, 1, 1)), rng.uniform(3, 8, (n, 1, 1))
    inside = (row - centre[:, 0]) ** 2 + (column - centre[:, 1]) ** 2 < radius**2
    return (inside ^ (rng.random(inside.shape) < noise))[:, None].astype(np.float32)


def families(sizes: tuple[int, ...], noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy copies of far-apart shapes: images, labels, the clean shapes."""
    quarter = SIDE // 2
    shapes = np.zeros((4, 1, SIDE, SIDE), dtype=np.float32)
    for label, (row, column) in enumerate([(0, 0), (0, quarter), (quarter, 0), (quarter, quarter)]):
        shapes[label, 0, row : row + quarter, column : column + quarter] = 1
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(0)
    rng.shuffle(labels)
    flips = rng.random((len(labels), 1, SIDE, SIDE)) < noise
    return np.abs(shapes[labels] - flips).astype(np.float32), labels, shapes[: len(sizes)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_prototypes_are_the_means_of_the_families_largest_first(seed: int, method: str) -> None:
    images, labels, _ = families((12, 30, 21), noise=0.05)
    prototypes = ShapePrototypes(3, method, seed)(images)
    expected = np.stack([images[labels == label].mean(axis=0) for label in (1, 2, 0)])
    np.testing.assert_allclose(prototypes, expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_equal_clusters_come_in_the_order_of_their_first_image(method: str) -> None:
    images, labels, shapes = families((10, 10, 10, 10), noise=0.0)
    prototypes = ShapePrototypes(4, method)(images)
    order = sorted(range(4), key=lambda label: int(np.argmax(labels == label)))
    np.testing.assert_array_equal(prototypes, shapes[order])


@pytest.mark.parametrize(("n", "k", "noise"), [(60, 1, 0.02), (60, 25, 0.02), (25, 25, 0.02), (400, 12, 0.35)])
def test_every_prototype_is_the_mean_of_the_images_nearest_to_it(n: int, k: int, noise: float) -> None:
    images = discs(n, noise)
    prototypes = ShapePrototypes(k)(images)
    assert prototypes.shape == (k, 1, SIDE, SIDE) and prototypes.dtype == np.float32
    assert prototypes.min() >= 0 and prototypes.max() <= 1
    gaps = ((images[:, None].astype(np.float64) - prototypes[None]) ** 2).sum(axis=(2, 3, 4))  # (N, K)
    nearest = gaps.argmin(axis=1)
    for label in range(k):
        np.testing.assert_allclose(prototypes[label], images[nearest == label].mean(axis=0), atol=1e-6)
    sizes = np.bincount(nearest, minlength=k)
    assert np.all(np.diff(sizes) <= 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_result_depends_on_seed_and_images_only(threads: int) -> None:
    images = discs(80, noise=0.05)
    first = ShapePrototypes(8, seed=3)(images)
    np.random.seed(99)
    with threadpool_limits(limits=threads):
        np.testing.assert_array_equal(ShapePrototypes(8, seed=3)(images.copy()), first)
    assert not np.array_equal(ShapePrototypes(8, seed=4)(images), first)


@pytest.mark.parametrize("method", METHODS)
def test_the_images_are_not_changed(method: str) -> None:
    images = discs(30)
    before = images.copy()
    ShapePrototypes(4, method)(images)
    np.testing.assert_array_equal(images, before)


def test_tensor_in_tensor_out() -> None:
    images = discs(30)
    from_array = ShapePrototypes(4)(images)
    from_tensor = ShapePrototypes(4)(torch.from_numpy(images))
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, torch.Tensor) and from_tensor.dtype == torch.float32
    np.testing.assert_array_equal(from_tensor.numpy(), from_array)
    # A centre belongs to no one image: nothing of an image's metadata may travel with it.
    assert not isinstance(ShapePrototypes(4)(MetaTensor(images, meta={"filename": "a"})), MetaTensor)


@pytest.mark.parametrize("method", METHODS)
def test_grey_images_cluster_too(method: str) -> None:
    silhouettes, labels, _ = families((12, 30, 21), noise=0.02)
    grey = 0.1 + 0.7 * silhouettes + 0.1 * np.random.default_rng(0).random(silhouettes.shape).astype(np.float32)
    prototypes = ShapePrototypes(3, method)(grey)
    expected = np.stack([grey[labels == label].mean(axis=0) for label in (1, 2, 0)])
    np.testing.assert_allclose(prototypes, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"images lie in \[25.*not in \[0, 1\]: scale"):
        ShapePrototypes(3, method)(grey * 255)


def test_follows_binarize() -> None:
    images = torch.from_numpy(discs(30)) * 0.9
    assert torch.equal(ShapePrototypes(4)(Binarize()(images)), ShapePrototypes(4)(torch.from_numpy(discs(30))))


def literal_density_peaks(points: np.ndarray, k: int) -> list[int]:
    """Density peak clustering one point at a time, as in the publication's text."""
    n = len(points)
    d = [[float(np.sqrt(((points[i] - points[j]) ** 2).sum())) for j in range(n)] for i in range(n)]
    cutoff = float(np.percentile([d[i][j] for i in range(n) for j in range(i)], 2))
    density = [round(sum(np.exp(-((d[i][j] / cutoff) ** 2)) for j in range(n) if j != i), 9) for i in range(n)]
    gap, nearest = [0.0] * n, [-1] * n
    for i in range(n):
        denser = [j for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        if denser:
            nearest[i] = min(denser, key=lambda j: (d[i][j], -density[j], j))
            gap[i] = d[i][nearest[i]]
        else:
            gap[i] = max(d[i])
    centres = sorted(range(n), key=lambda i: (-density[i] * gap[i], -gap[i], -density[i], i))[:k]

    def label(i: int) -> int:
        return centres.index(i) if i in centres else label(nearest[i])

    return [label(i) for i in range(n)]


@pytest.mark.parametrize(("n", "k"), [(6, 2), (60, 1), (60, 9), (90, 25), (25, 25)])
@pytest.mark.parametrize("kind", ["binary", "grey", "plane", "ring"])
def test_density_peaks_agree_with_a_literal_reference(n: int, k: int, kind: str) -> None:
    random = np.random.default_rng(n + k)
    rows = {
        "binary": discs(n, noise=0.02, seed=k).reshape(n, -1),
        "grey": random.random((n, 40)).astype(np.float32),
        # Each like the next one: all densities are equal, however they are summed.
        "ring": sum(np.roll(np.eye(n, dtype=np.float32), i, axis=0) for i in range(3)),
        "plane": (random.integers(0, 3, (n, 1)) * 0.3 + 0.05 * random.standard_normal((n, 2))).astype(np.float32),
    }[kind]
    assert density_peak_clusters(rows, k).tolist() == literal_density_peaks(rows.astype(np.float64), k)


def test_density_peaks_follow_long_clusters_that_k_means_cuts_in_half() -> None:
    labels, along = np.arange(300) % 2, np.repeat(scipy.stats.norm.ppf((np.arange(150) + 0.5) / 150), 2)
    across = 2.0 * labels + 0.1 * np.random.default_rng(0).standard_normal(300)
    rows = np.stack([3 * along, across], axis=1)
    found = density_peak_clusters(rows, 2)
    assert (found == (labels if found[0] == 0 else 1 - labels)).all()
    halves = KMeans(2, n_init=1, random_state=0).fit_predict(rows)
    assert 0.4 < (halves == labels).mean() < 0.6


@pytest.mark.filterwarnings("error")
def test_copies_of_an_image_share_its_cluster() -> None:
    """With so many copies the 2nd percentile of the distances is 0."""
    images, labels, shapes = families((40, 30), noise=0.0)
    odd = discs(2, noise=0.4)
    every = np.concatenate([images, odd])
    prototypes = ShapePrototypes(4, "density_peak")(every)
    np.testing.assert_array_equal(prototypes, np.concatenate([shapes, odd]))
    one = ShapePrototypes(1, "density_peak")(images[labels == 0])
    np.testing.assert_array_equal(one, shapes[:1])


def test_no_copy_becomes_a_centre_before_a_lone_image() -> None:
    """Beside images that are nearly equal a lone one has no density at all; a copy has no gap."""
    random = np.random.default_rng(0)
    near = (0.5 + 0.001 * random.standard_normal((10, 5000))).astype(np.float32)
    lone = random.random((3, 5000), dtype=np.float32)
    labels = density_peak_clusters(np.concatenate([near, near, near, lone]), 13)
    assert sorted(labels[:10].tolist() + labels[30:].tolist()) == list(range(13))
    assert (labels[:10] == labels[10:20]).all() and (labels[:10] == labels[20:30]).all()


def test_density_peaks_need_no_seed_and_no_thread() -> None:
    images = discs(80, noise=0.05)
    first = ShapePrototypes(8, "density_peak", seed=3)(images)
    with threadpool_limits(limits=2):
        np.testing.assert_array_equal(ShapePrototypes(8, "density_peak", seed=4)(images), first)
    assert not np.array_equal(ShapePrototypes(8)(images), first)


def test_density_peaks_of_a_thousand_images_take_seconds() -> None:
    rows = (np.random.default_rng(0).random((1000, 256 * 256), dtype=np.float32) > 0.5).astype(np.float32)
    start = time.process_time()
    assert len(set(density_peak_clusters(rows, 25).tolist())) == 25
    assert time.process_time() - start < 60  # of all threads; some seconds on one core


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("images", "k", "message"),
    [
        (discs(10), 11, "10 images cannot give n_prototypes=11: give at least 11 or lower"),
        (np.repeat(discs(4), 10, axis=0), 5, "only 4 of 40 images are distinct.*at most 4"),
        (np.zeros((30, 1, 8, 8)), 2, "only 1 of 30"),
        (discs(10) * 255, 2, r"not in \[0, 1\]"),
        (discs(10) * float("nan"), 2, r"not in \[0, 1\]"),
        (discs(10)[:, 0], 2, r"not \(N, 1, H, W\)"),
        (np.concatenate([discs(10), discs(10)], axis=1), 2, r"not \(N, 1, H, W\)"),
    ],
)
def test_unfit_images_are_refused_with_the_cure(images: np.ndarray, k: int, message: str, method: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapePrototypes(k, method)(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "density"}, "method='density' is not one of 'kmeans', 'density_peak'"),
        ({"n_prototypes": 0}, "n_prototypes=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_unknown_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapePrototypes(**arguments)


def test_an_empty_cluster_is_an_error_and_never_a_nan_prototype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShapePrototypes, "_cluster", lambda self, rows: np.zeros(len(rows), dtype=int))
    with pytest.raises(ValueError, match="left 2 of 3 clusters empty"):
        ShapePrototypes(3)(discs(10))
