"""Reading of images and masks: EXIF, grey, 16 bits, alpha, palettes, truncated files."""

import numpy as np
import pytest
from PIL import Image

from vision.data.image import image_size, read_image, read_index_mask, read_segment_ids


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)


def test_png_comes_back_as_rgb(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "ä b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "ä b.png"), pixels)


def test_grey_becomes_three_equal_channels(tmp_path, pixels):
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(pixels[..., :1], 3, 2))


def test_alpha_is_dropped(tmp_path, pixels):
    Image.fromarray(np.dstack([pixels, np.full((11, 17), 3, np.uint8)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


def test_16_bits_keep_their_upper_8(tmp_path):
    deep = np.array([[0, 255, 256, 65535, 32768]], np.uint16).repeat(3, 0)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 255, 128]


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: a[::-1, ::-1]), (4, np.flipud), (5, lambda a: a.swapaxes(0, 1)),
     (6, lambda a: np.rot90(a, -1)), (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)), (8, lambda a: np.rot90(a))],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, turn, suffix):
    pixels = np.kron(np.random.default_rng(1).integers(0, 256, (2, 3, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, quality=100)
    image = read_image(path)
    assert image.shape[:2] == image_size(path) == turn(pixels).shape[:2]
    assert np.abs(image.astype(int) - turn(pixels)).mean() < 12  # JPEG blurs the colours of neighbours
    if suffix != "tif":  # which OpenCV turns in any case
        assert read_image(path, upright=False).shape == pixels.shape
    assert image_size(path, upright=False) == pixels.shape[:2]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, suffix, share):
    path = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(2).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    read_image(path)
    content = path.read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"cut\.{suffix}"):
        read_image(tmp_path / f"cut.{suffix}")


def test_a_jpeg_cut_after_its_thumbnail_is_truncated(tmp_path, pixels):
    # a whole JPEG in a header segment has an end marker, which must not be taken for the image's
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    (tmp_path / "b.jpg").write_bytes(content[:2] + thumbnail + content[2:])
    assert read_image(tmp_path / "b.jpg").shape == pixels.shape
    (tmp_path / "b.jpg").write_bytes((content[:2] + thumbnail + content[2:])[:-40])
    with pytest.raises(ValueError, match="truncated"):
        read_image(tmp_path / "b.jpg")


@pytest.mark.parametrize("read", [read_image, image_size, read_index_mask, read_segment_ids])
def test_what_is_no_image_is_named(tmp_path, read):
    (tmp_path / "a.png").write_text("hello")
    for name in ("a.png", "missing.png"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)


def test_masks_are_read_as_stored(tmp_path):
    values = np.array([[0, 1, 200], [7, 255, 3]], np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(values > 5).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_index_mask(tmp_path / "palette.png"), values)
    np.testing.assert_array_equal(read_index_mask(tmp_path / "grey.png"), values)
    np.testing.assert_array_equal(read_index_mask(tmp_path / "deep.png"), values.astype(int) * 200)
    np.testing.assert_array_equal(read_index_mask(tmp_path / "bits.png"), values > 5)
    Image.fromarray(np.dstack([values] * 3)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="channels"):
        read_index_mask(tmp_path / "colour.png")
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "fractions.tif")
    with pytest.raises(ValueError, match=r"fractions\.tif: a mask of float32 values"):
        read_index_mask(tmp_path / "fractions.tif")


def test_large_images_are_read_as_opencv_reads_them(tmp_path, monkeypatch):
    Image.fromarray(np.full((30, 40), 3, np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses twice that number
    assert image_size(tmp_path / "a.png") == (30, 40)
    assert (read_index_mask(tmp_path / "a.png") == 3).all()
    assert Image.MAX_IMAGE_PIXELS == 500
    monkeypatch.setattr("vision.ops.open_image.MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"a\.png: .*40x30 pixels"):
        image_size(tmp_path / "a.png")


def test_segment_ids_add_up_over_the_channels(tmp_path):
    Image.fromarray(np.array([[[5, 2, 1], [0, 0, 0]]], np.uint8)).save(tmp_path / "a.png")
    assert read_segment_ids(tmp_path / "a.png").tolist() == [[5 + 2 * 256 + 65536, 0]]
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="panoptic"):
        read_segment_ids(tmp_path / "b.png")
