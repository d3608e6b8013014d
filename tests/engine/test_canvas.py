import pytest

from vision.engine.canvas import fitting_preprocess


class Sized:
    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def size(self, index):
        return self.sizes[index]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(480, 640), (240, 320)], (256, 320)),  # 240 rounded up to a multiple of 32
        ([(480, 640), (640, 480)], (320, 320)),  # both ways round: a square
        ([(100, 1000)], (32, 320)),
        ([(500, 500)], (320, 320)),
    ],
)
def test_letterbox_holds_every_image_without_needless_padding(sizes, expected):
    assert fitting_preprocess(320, "letterbox", Sized(*sizes)).size == expected


def test_a_side_that_is_no_multiple_stays_the_limit():
    assert fitting_preprocess(300, "letterbox", Sized((480, 640))).size == (256, 300)
    assert fitting_preprocess(300, "letterbox", Sized((640, 640))).size == (300, 300)


def test_given_shapes_and_other_modes_stay():
    assert fitting_preprocess((320, 320), "letterbox", Sized((480, 640))).size == (320, 320)
    assert fitting_preprocess(320, "stretch", Sized((480, 640))).size == (320, 320)
