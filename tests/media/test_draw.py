import itertools

import numpy as np
import pytest
import torch

from vision.media.draw import _plate, class_colours, draw_detections, draw_segmentation
from vision.structures import ClassMap, Detections, LabelRule, Segmentation

CLASSES = ClassMap(("cell", "plate", "a rather long class name"))


def detections(boxes, masks=None):
    count = len(boxes)
    return Detections(
        torch.tensor(boxes).float().reshape(-1, 4), torch.linspace(0.9, 0.5, count), torch.arange(count) % 3, masks
    )


@pytest.mark.parametrize("size", [(24, 24), (240, 320), (1080, 1920), (31, 400)])
def test_any_size_and_boxes_at_the_edge(size):
    height, width = size
    image = np.full((*size, 3), 128, np.uint8)
    drawn = draw_detections(image, detections([[0, 0, width, height], [width - 4, height - 3, width, height]]), CLASSES)
    assert drawn.shape == image.shape
    assert (image == 128).all()  # the input is not touched
    assert (drawn[0] != 128).any() and (drawn[:, -1] != 128).any()


def test_letters_grow_with_the_image():
    def inked(side):
        image = np.full((side, side, 3), 128, np.uint8)
        box = [[side // 4, side // 2, side // 2, side - 4]]
        rows = np.nonzero((draw_detections(image, detections(box), CLASSES) != 128).any((1, 2)))[0]
        return side // 2 - rows.min()  # the height of the label above the box

    assert 10 <= inked(320) < inked(1080) < inked(2160)


def test_masks_colour_their_pixels_only():
    image = np.full((40, 40, 3), 100, np.uint8)
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[0, 20:30, 10:30] = True
    drawn = draw_detections(image, detections([[10, 20, 30, 30]], masks), CLASSES)
    assert (drawn[25, 15] != 100).any()
    assert (drawn[35, 35] == 100).all()


def test_below_the_threshold_nothing_is_drawn():
    image = np.full((40, 40, 3), 100, np.uint8)
    assert (draw_detections(image, detections([[5, 5, 30, 30]]), CLASSES, score_threshold=0.95) == 100).all()
    assert (draw_detections(image, detections([]), CLASSES) == 100).all()


def test_segmentation_overlay_and_legend():
    image = np.full((120, 160, 3), 100, np.uint8)
    labels = torch.zeros(120, 160, dtype=torch.long)
    labels[:, 80:] = 1
    labels[100:] = 255  # ignored pixels are darkened, never given a class's colour
    plain = draw_segmentation(image, Segmentation(labels), CLASSES, legend=False)
    expected = np.round(50 + 0.5 * class_colours(3).astype(float))
    assert np.abs(plain[50, 40] - expected[0]).max() <= 1
    assert np.abs(plain[50, 120] - expected[1]).max() <= 1
    assert (plain[110, 10] == 50).all()
    legend = draw_segmentation(image, Segmentation(labels), CLASSES)
    assert (legend[:40, :60] != plain[:40, :60]).any()


def test_colours_differ():
    colours = class_colours(80).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(80, dtype=int)
    assert distance.min() > 15 and distance[:20, :20].min() > 50


def test_background_is_left_as_it_is():
    image = np.full((40, 40, 3), 100, np.uint8)
    labels = torch.zeros(40, 40, dtype=torch.long)
    labels[:, 20:] = 1
    drawn = draw_segmentation(image, Segmentation(labels), ClassMap(("background", "cell")), legend=False)
    assert (drawn[:, :20] == 100).all()
    assert (drawn[:, 20:] != 100).any()


def test_the_legend_keeps_the_order_of_the_classes_and_the_largest_where_not_all_fit():
    names = tuple(f"class {i}" for i in range(30))
    classes, image = ClassMap(names), np.zeros((120, 160, 3), np.uint8)
    labels = torch.full((120, 160), 255)
    labels[:, 80:] = 29  # the largest, and the last one
    labels[0, :29] = torch.arange(29)

    def legend(segmentation):
        with_it, without = (draw_segmentation(image, segmentation, classes, legend=on) for on in (True, False))
        rows = (with_it != without).any(2)[:, 2]
        return with_it[rows, 2]

    colours = [tuple(row) for row in legend(Segmentation(labels)).tolist()]
    order = list(dict.fromkeys(colours))
    known = [tuple(colour) for colour in class_colours(30).tolist()]
    places = [known.index(colour) for colour in order]
    assert places == sorted(places) and 29 in places and 1 < len(places) < 30


def test_overlapping_classes_are_mixed_and_what_has_none_is_left_as_it_is():
    image = np.full((40, 60, 3), 100, np.uint8)
    scores = torch.zeros(3, 40, 60)
    scores[0, :, :40], scores[1, :, 20:40] = 0.7, 0.9
    rule = LabelRule(0.5)
    drawn = draw_segmentation(image, Segmentation(rule.labels(scores), scores, rule), CLASSES, legend=False)
    first, second, _ = class_colours(3).astype(float)
    for column, colour in ((10, first), (30, (first + second) / 2)):
        assert np.abs(drawn[20, column] - (50 + colour / 2)).max() <= 1
    assert (drawn[:, 40:] == 100).all()


def test_names_of_boxes_at_one_place_stand_below_each_other():
    image = np.full((200, 300, 3), 100, np.uint8)
    taken = []
    for _ in range(5):
        taken.append(_plate(image, "cell 0.50", (40, 60, 160, 180), taken))
    rows = sorted(plate[1] for plate in taken)
    tall = taken[0][3] - taken[0][1]
    assert rows[0] < 60 and all(after - before >= tall for before, after in itertools.pairwise(rows))
    assert taken[0][1] == rows[0]  # the first, best one stands above the box
