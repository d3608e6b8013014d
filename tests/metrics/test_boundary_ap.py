"""Boundary AP against faster-coco-eval, and its bands against plain counting."""

import numpy as np
import pytest
import torch
from coco_oracle import coco_files, random_case, run_lengths
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.metrics import DetectionAP
from vision.metrics.bands import boundary_bands
from vision.metrics.outlines import boundary_band, boundary_width
from vision.metrics.run_reading import runs_from_bitmaps, runs_from_rle
from vision.structures import Detections, Target


def ellipses(count, height, width, rng):
    y, x = np.mgrid[:height, :width]
    centre, radius = rng.random((count, 2)) * [height, width], np.exp(rng.normal(2.5, 0.8, (count, 2)))
    return np.array([((y - c[0]) / r[0]) ** 2 + ((x - c[1]) / r[1]) ** 2 < 1 for c, r in zip(centre, radius)], bool)


def shapes(count, height, width, seed):
    """Ellipses, with holes, with teeth, noise, an empty mask and a full one."""
    rng = np.random.default_rng(seed)
    masks = ellipses(count, height, width, rng)
    masks[0::4] &= ~ellipses(len(masks[0::4]), height, width, rng)
    masks[1::4, ::7] = False
    masks[2] = rng.random((height, width)) < 0.97
    masks[3], masks[5] = False, True
    return masks


@pytest.mark.parametrize(("height", "width"), [(40, 60), (121, 90), (300, 410), (9, 200)])
def test_bands_equal_bitmaps(height, width, device):
    masks = torch.from_numpy(shapes(16, height, width, height))
    expected = boundary_band(masks, boundary_width(height, width))
    runs = runs_from_bitmaps(masks.to(device))
    bands = boundary_bands(runs)
    canvas = torch.zeros(masks.shape, dtype=torch.bool)
    for owner, column, top, bottom in zip(
        *(one.tolist() for one in (bands.owner, bands.column, bands.top, bands.bottom))
    ):
        assert not canvas[owner, top:bottom, column].any()
        canvas[owner, top:bottom, column] = True
    np.testing.assert_array_equal(canvas.numpy(), expected.numpy())
    np.testing.assert_array_equal(bands.area().cpu().numpy(), expected.sum((1, 2)).numpy())


def test_images_of_several_sizes_and_of_none():
    sizes = [(30, 40), (200, 300), (31, 41)]
    masks = [shapes(8, *size, seed=i) for i, size in enumerate(sizes)]
    runs = runs_from_rle([run_lengths(mask) for part in zip(*masks) for mask in part])
    expected = [boundary_band(torch.from_numpy(mask), boundary_width(*mask.shape[1:])).sum((1, 2)) for mask in masks]
    assert boundary_bands(runs).area().tolist() == torch.stack(expected, 1).flatten().tolist()
    assert len(boundary_bands(runs_from_rle([]))) == 0


def faster_arrays(content, results):
    truth = COCO(content)
    peer = COCOeval_faster(truth, truth.loadRes([dict(one) for one in results]), "boundary")
    peer.evaluate()
    peer.accumulate()
    return {
        name: np.where(peer.eval[name] == -1, np.nan, peer.eval[name]) for name in ("precision", "recall", "scores")
    }


def assert_equals_faster_coco_eval(seed):
    case = random_case(seed, "segm", images=4)
    if not case.results or not case.annotations:
        return
    metric = DetectionAP(case.classes, "boundary")
    metric.update(case.detections, case.targets)
    result = metric.compute()
    expected = faster_arrays(coco_files(case.annotations, case.images, case.classes), case.results)
    for name, array in expected.items():
        np.testing.assert_allclose(getattr(result, name), array, rtol=0, atol=1e-12, err_msg=f"{name}, seed {seed}")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_random_masks_equal_faster_coco_eval(seed):
    assert_equals_faster_coco_eval(seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_a_thousand_cases_equal_faster_coco_eval(seed):
    assert_equals_faster_coco_eval(seed)


def test_ellipses_equal_faster_coco_eval():
    rng = np.random.default_rng(3)
    height, width, annotations, results, metric = 150, 200, [], [], DetectionAP(2, "boundary")
    for image in range(6):
        masks = ellipses(8, height, width, rng)
        found = np.array([np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) for mask in masks])
        labels, scores = rng.integers(0, 2, 8), rng.random(8).astype(np.float32)
        for i in range(8):
            one = {"image_id": image, "category_id": int(labels[i])}
            annotations.append({**one, "id": len(annotations) + 1, "segmentation": run_lengths(masks[i]), "iscrowd": 0,
                                "area": float(masks[i].sum()), "bbox": [0, 0, 1, 1]})  # fmt: skip
            results.append({**one, "score": float(scores[i]), "segmentation": run_lengths(found[i])})
        tensors = (torch.zeros(8, 4), torch.from_numpy(scores), torch.from_numpy(labels), torch.from_numpy(found))
        target = Target(np.zeros((8, 4)), labels, area=masks.sum((1, 2)), masks=masks, image_id=image)
        metric.update([Detections(*tensors)], [target])
    content = coco_files(annotations, 6, 2)
    for image in content["images"]:
        image |= {"height": height, "width": width}
    result = metric.compute()
    expected = faster_arrays(content, results)["precision"]
    np.testing.assert_allclose(result.precision, expected, rtol=0, atol=1e-12)
    assert 0.05 < result.average_precision() < 0.95
