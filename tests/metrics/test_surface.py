"""Outline distances against brute force, scipy and monai; boundary IoU against OpenCV."""

import json
import math
import re
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vision.metrics import RandScore, SurfaceDistance, boundary_iou, surface_figures
from vision.metrics import surface as surface_module
from vision.metrics.confusion import is_ignored
from vision.metrics.outlines import boundary_band, boundary_width, label_band, label_outline, mask_outline
from vision.metrics.surface import outline_distances, percentile_of


def blobs(shape, seed, level=0.0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 3) > level * 0.05


def scipy_distances(predicted, truth, spacing):
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (predicted, truth)]
    far = [ndimage.distance_transform_edt(~edge, spacing) for edge in edges]
    return far[1][edges[0]], far[0][edges[1]]


@pytest.mark.parametrize("shape", [(40, 57), (11, 18, 23)])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_equals_scipy(shape, unit, direct, device, monkeypatch):
    if not direct:  # through the distance transform, as for long outlines
        monkeypatch.setattr(surface_module, "_DIRECT", 0)
        monkeypatch.setattr(surface_module, "_DIRECT_ON_GPU", 0)
    spacing = (1.0,) * len(shape) if unit else (2.5, 1.0, 0.7)[: len(shape)]
    masks = [blobs(shape, seed, level) for seed, level in ((0, 0.2), (1, 0.5))]
    found = outline_distances(*(torch.from_numpy(mask).to(device) for mask in masks), spacing)
    for ours, theirs in zip(found, scipy_distances(*masks, spacing)):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, rtol=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.floats(0, 1), st.integers(0, 10**6), st.floats(0, 100))
def test_equals_brute_force(height, width, density, seed, percentile):
    rng = np.random.default_rng(seed)
    spacing = (1.5, 0.5)
    masks = rng.random((2, height, width)) < density
    figures = surface_figures(*torch.from_numpy(masks), spacing, percentile=percentile)
    points = []
    for mask in masks:
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        points.append(np.argwhere(mask & ~inner) * spacing)
    if not all(len(one) for one in points):
        expected = math.nan if not len(points[0]) + len(points[1]) else math.inf
        np.testing.assert_equal([figures["hausdorff"], figures["hd95"], figures["assd"]], [expected] * 3)
        return
    far = np.sqrt(((points[0][:, None] - points[1]) ** 2).sum(-1))
    forth, back = far.min(1), far.min(0)
    assert figures["hausdorff"] == pytest.approx(max(forth.max(), back.max()), rel=1e-14)
    assert figures["hd95"] == pytest.approx(max(np.percentile(one, percentile) for one in (forth, back)), rel=1e-14)
    assert figures["assd"] == pytest.approx(np.concatenate([forth, back]).mean(), rel=1e-13)
    assert figures["surface_dice"] == pytest.approx((np.concatenate([forth, back]) <= 1).mean(), abs=1e-12)


def test_surface_dice_equals_scipy_in_full_precision():
    masks = [blobs((64, 80), seed, 0.3) for seed in (0, 50)]
    figures = surface_figures(*map(torch.from_numpy, masks), tolerance=2)
    expected = (np.concatenate(scipy_distances(*masks, (1, 1))) <= 2).mean()
    assert 0.1 < expected < 0.9
    assert figures["surface_dice"] == pytest.approx(expected, abs=1e-12)


def test_figures_equal_monai():
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    for seed in range(4):
        masks = [torch.from_numpy(blobs((64, 80), seed + shift, 0.3)) for shift in (0, 50)]
        figures = surface_figures(*masks)
        batch = [mask[None, None] for mask in masks]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = compute_hausdorff_distance(*batch, include_background=True)
            most = compute_hausdorff_distance(*batch, include_background=True, percentile=95)
            mean = compute_average_surface_distance(*batch, include_background=True, symmetric=True)
        assert figures["hausdorff"] == pytest.approx(whole.item(), rel=1e-6)
        assert figures["hd95"] == pytest.approx(most.item(), rel=1e-6)
        assert figures["assd"] == pytest.approx(mean.item(), rel=1e-6)


def test_by_hand():
    # two single pixels, 3 rows and 4 columns apart
    a, b = torch.zeros(2, 9, 9, dtype=torch.bool)
    a[1, 1] = b[4, 5] = True
    figures = surface_figures(a, b, tolerance=4.9)
    assert figures == {"hausdorff": 5, "hd95": 5, "assd": 5, "surface_dice": 0}
    assert surface_figures(a, b, tolerance=5)["surface_dice"] == 1
    assert surface_figures(a, b, (2.0, 0.5))["hausdorff"] == math.sqrt(36 + 4)


def test_empty_masks():
    empty, full = torch.zeros(5, 5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool)
    assert all(math.isnan(value) for value in surface_figures(empty, empty).values())
    for pair in ((empty, full), (full, empty)):
        assert surface_figures(*pair) == {"hausdorff": math.inf, "hd95": math.inf, "assd": math.inf, "surface_dice": 0}


def test_outline_touches_the_border():
    assert mask_outline(torch.ones(4, 4)).sum() == 12


@pytest.mark.parametrize("percentile", [0, 5, 50, 95, 99.9, 100])
@pytest.mark.parametrize("count", [1, 2, 41])
def test_percentile_equals_numpy(percentile, count):
    values = np.random.default_rng(count).random(count)
    assert percentile_of(torch.from_numpy(values), percentile).item() == np.percentile(values, percentile)


def test_boundary_iou_equals_opencv():
    masks = np.stack([blobs((61, 83), seed, 0.2) for seed in range(4)])
    width = boundary_width(61, 83)
    expected = []
    for mask in masks:
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
        expected.append(mask & (inner == 0))
    np.testing.assert_array_equal(boundary_band(torch.from_numpy(masks), width).numpy(), np.stack(expected))
    iou = boundary_iou(torch.from_numpy(masks[:2]), torch.from_numpy(masks[2:]))
    for i in range(2):
        both, either = expected[i] & expected[i + 2], expected[i] | expected[i + 2]
        assert iou[i].item() == both.sum() / either.sum()
    assert boundary_iou(torch.zeros(1, 5, 5), torch.zeros(1, 5, 5)).isnan().all()


def test_over_a_data_set():
    truth = torch.zeros(3, 12, 12, dtype=torch.int64)
    truth[:, 2:6, 2:6] = 1
    truth[2] = 0
    predicted = truth.clone()
    predicted[1] = 0  # class 1 missed: infinitely far
    metric = SurfaceDistance(("ground", "thing", "nowhere"))
    metric.update(predicted, truth)
    figures = metric.compute().to_dict()
    thing = figures["per_class"]["thing"]
    assert thing["hausdorff"] == "infinity"
    assert thing["hausdorff_finite"] == 0
    assert (thing["infinite"], thing["undefined"]) == (1, 1)
    assert thing["surface_dice"] == 0.5
    assert figures["per_class"]["nowhere"]["hausdorff"] is None
    json.dumps(figures, allow_nan=False)
    # the worst case must not vanish from the overall rows
    assert figures["hausdorff"] == "infinity"
    for style, row in (("console", r"hausdorff +infinity"), ("markdown", r"\| hausdorff +\| +infinity \|")):
        assert re.search(row, metric.compute().table(style))
    assert "hausdorff,infinity\n" in metric.compute().table("csv")
    assert (figures["spacing"], figures["tolerance"]) == ([1, 1], 1)


def test_equals_each_class_by_itself(device):
    # noise of four labels, some of them ignored, one predicted label that is no class: every outline at once
    rng = np.random.default_rng(3)
    truth = np.stack([blobs((70, 90), seed) * 2 + blobs((70, 90), seed + 9) * 1 for seed in range(3)])
    predicted = np.where(rng.random(truth.shape) < 0.02, (truth + 1) % 5, truth)
    truth[rng.random(truth.shape) < 0.01] = 255
    truth[2][truth[2] == 3] = 0
    predicted, truth = torch.from_numpy(predicted).to(device), torch.from_numpy(truth).to(device)
    metric = SurfaceDistance(4, (2.0, 0.7), percentile=90, tolerance=2.1)
    metric.update(predicted, truth)
    result = metric.compute()
    assert result.names[1] == "hd90"
    for image in range(3):
        for label in range(4):
            counted = truth[image] != 255
            masks = [(one[image] == label) & counted for one in (predicted, truth)]
            expected = list(surface_figures(*masks, (2.0, 0.7), percentile=90, tolerance=2.1).values())
            expected.append(boundary_iou(*masks).item())
            np.testing.assert_allclose(result.values[image, label], expected, rtol=1e-12)
    assert np.isinf(result.values[2, 3, 0])


def test_volumes(device):
    volumes = torch.from_numpy(np.stack([blobs((9, 14, 17), seed, 0.2) for seed in (0, 1)])).to(device)
    metric = SurfaceDistance(2, (3.0, 1.0, 1.0))
    metric.update(volumes[:1].long(), volumes[1:].long())
    expected = surface_figures(volumes[0], volumes[1], (3.0, 1.0, 1.0))
    np.testing.assert_allclose(metric.compute().values[0, 1, :4], list(expected.values()), rtol=1e-12)
    assert metric.compute().to_dict()["boundary_iou"] is None  # a band is of images


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (3, 4), (40, 57)])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_band_of_labels_is_that_of_each_mask(size, width, device):
    labels = torch.from_numpy(blobs(size, 5) * 2 + blobs(size, 6) * 1).to(device)
    band, edge = label_band(labels, width), label_outline(labels)
    for label in range(4):
        mask = labels == label
        plain = mask.cpu().numpy()
        inner = ndimage.binary_erosion(plain, np.ones((3, 3)), iterations=width)
        for found in (band & mask, boundary_band(mask, width)):
            np.testing.assert_array_equal(found.cpu().numpy(), plain & ~inner)
        for found in (edge & mask, mask_outline(mask)):
            np.testing.assert_array_equal(found.cpu().numpy(), plain & ~ndimage.binary_erosion(plain))


def test_one_empty_mask_is_the_worst_where_monai_says_nothing():
    from monai.metrics import compute_hausdorff_distance

    full, empty = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = compute_hausdorff_distance(full, empty, include_background=True, percentile=95).item()
    assert math.isnan(theirs)
    assert surface_figures(full[0, 0], empty[0, 0])["hd95"] == math.inf


@pytest.mark.parametrize(
    ("spacing", "percentile", "tolerance"),
    [((1.0,), 95, 1), ((1.0, 0.0), 95, 1), ((1.0, math.nan), 95, 1), ((1.0, 1.0), 101, 1), ((1.0, 1.0), 95, -1)],
)
def test_options_out_of_range(spacing, percentile, tolerance):
    with pytest.raises(ValueError, match="expected"):
        SurfaceDistance(1, spacing, percentile=percentile, tolerance=tolerance)


@pytest.mark.parametrize("kind", [SurfaceDistance, RandScore])
def test_ignore_inside_the_classes_is_no_class(kind):
    truth = torch.ones(1, 8, 8, dtype=torch.int64)
    truth[:, :2] = 0
    predicted = torch.ones_like(truth)
    predicted[:, 5, 5] = 0  # one stray pixel of the ignored class
    metric = kind(2, ignore=0)
    metric.update(predicted, truth)
    row = metric.compute().to_dict()["per_class"]["class 0"]
    assert {value for value in row.values() if not isinstance(value, int)} == {None}
    assert row.get("infinite", 0) == 0


@pytest.mark.parametrize("kind", [SurfaceDistance, RandScore])
@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (torch.zeros(1, 4, 4), "update: torch.float32 labels; expected integers"),
        (torch.full((1, 4, 4), 7), "update: labels from 7 to 7; expected 0 to 2"),
        (torch.full((1, 4, 4), -1), "update: labels from -1 to -1; expected 0 to 2"),
    ],
)
def test_labels_that_are_no_class_are_refused(kind, truth, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}.{message}"):
        kind(3).update(torch.zeros_like(truth), truth)


def test_ignored_pixels_and_merge():
    truth = torch.full((1, 6, 6), 255)
    truth[:, :3] = 0
    predicted = torch.zeros(1, 6, 6, dtype=torch.int64)
    metric, other = SurfaceDistance(1), SurfaceDistance(1)
    metric.update(predicted, truth)
    other.update(predicted, truth)
    metric.merge(other)
    assert metric.compute().values.shape == (2, 1, 5)
    assert metric.compute().to_dict()["hausdorff"] == 0
    with pytest.raises(ValueError, match=r"SurfaceDistance.merge: percentile 50; expected 95"):
        metric.merge(SurfaceDistance(1, percentile=50))
    with pytest.raises(ValueError, match="expected"):
        metric.update(predicted, truth[0])


@pytest.mark.parametrize("kind", [SurfaceDistance, RandScore])
def test_minus_one_ignores_nothing_in_bytes(kind):
    truth, predicted = torch.zeros(2, 1, 12, 12, dtype=torch.uint8).unbind(0)
    truth[:, 2:5, 2:5], truth[:, 8:11, 8:11] = 1, 255  # 255 is no class then, and finding class 1 there is wrong
    predicted[:, 2:5, 2:5], predicted[:, 8:11, 8:11] = 1, 1
    of_bytes, of_integers = kind(2, ignore=-1), kind(2, ignore=-1)
    of_bytes.update(predicted, truth)
    of_integers.update(predicted.long(), truth.long())
    assert of_bytes.compute().to_dict() == of_integers.compute().to_dict()
    assert not is_ignored(truth, -1).any() and is_ignored(truth, 255).sum() == 9
