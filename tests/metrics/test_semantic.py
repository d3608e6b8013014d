"""What is measured of semantic maps on request: the same as each metric by itself."""

import json

import pytest
import torch

from vision.metrics import RandScore, SegmentationScore, SurfaceDistance
from vision.metrics.semantic import SCORE_BINS, SemanticResults, semantic_metrics, update_semantic
from vision.structures import ClassMap

CLASSES = ClassMap(("ground", "cell"))


def maps(count=3):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(count, 2, 11, 14, generator=generator)
    truth = torch.randint(0, 2, (count, 11, 14), generator=generator)
    truth[:, 0] = 255
    return scores.argmax(1), truth, scores


def results_of(**options):
    metrics = semantic_metrics(CLASSES, **options)
    for one in zip(*maps()):
        update_semantic(metrics, *one)
    return SemanticResults({name: metric.compute() for name, metric in metrics.items()})


def test_equals_each_metric_by_itself():
    labels, truth, scores = maps()
    figures = results_of(analyse=True, with_scores=True).to_dict()
    pixels = SegmentationScore(CLASSES, score_bins=SCORE_BINS)
    surface, rand = SurfaceDistance(CLASSES), RandScore(CLASSES)
    pixels.update(labels, truth, scores)
    surface.update(labels, truth)
    rand.update(labels, truth)
    assert figures == {
        "semantic": pixels.compute().to_dict(),
        "surface": surface.compute().to_dict(),
        "rand": rand.compute().to_dict(),
    }
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("style", ["console", "markdown", "csv"])
def test_tables_name_their_parts(style):
    text = results_of(analyse=True).table(style)
    assert all(name in text for name in ("mIoU", "hd95", "rand_error"))
    assert json.loads(results_of(analyse=True).table("json")) == results_of(analyse=True).to_dict()
    assert "hd95" not in results_of().table(style)


def test_pixels_alone_and_means_over_images():
    assert results_of(per_image=True).to_dict()["averaged_over"] == "mean over 3 images"
    assert "average_precision" not in results_of(analyse=True, per_image=True, with_scores=True).to_dict()["semantic"]


def test_a_single_class_is_told_from_its_absence():
    # 2 x 3 pixels: label 0 is the class; truth has it in 3, the prediction in 3, both in 2; one of 6 is rightly neither
    truth = torch.tensor([[0, 0, 0], [255, 255, 255]])
    labels = torch.tensor([[0, 0, 255], [0, 255, 255]])
    scores = torch.tensor([[[0.9, 0.8, 0.3], [0.6, 0.2, 0.1]]])
    metrics = semantic_metrics(["cell"], analyse=True, with_scores=True, against_absence=True)
    update_semantic(metrics, labels, truth, scores)
    found = SemanticResults({name: metric.compute() for name, metric in metrics.items()}).to_dict()
    assert found["semantic"]["per_class"]["cell"]["IoU"] == pytest.approx(2 / 4)
    assert found["semantic"]["per_class"]["cell"]["precision"] == pytest.approx(2 / 3)
    assert found["semantic"]["pixel_accuracy"] == pytest.approx(4 / 6)
    # by falling score: right, right, wrong, right: 1/3 + 1/3 + 3/4 / 3
    assert found["semantic"]["mean_average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["surface"]["per_class"]["cell"]["hausdorff"] == 1
    assert found["rand"]["per_class"]["cell"]["rand_split"] == pytest.approx(1 / 3)  # of 3 pairs in the truth, 1 stays
