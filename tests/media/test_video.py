import logging
import resource

import numpy as np
import pytest

from vision.media.video import VideoReader, VideoWriter


def frames(count, size=(48, 64)):
    rows = np.linspace(0, 200, size[0])[:, None, None]
    return [np.broadcast_to(rows + 4 * k, (*size, 3)).astype(np.uint8) for k in range(count)]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_frames_rate_and_size_survive(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    with VideoWriter(path, 12.0, (48, 64)) as writer:
        for frame in frames(9):
            writer.write(frame)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with VideoReader(path) as video:
        assert (video.size, video.rate, video.count) == ((48, 64), 12.0, 9)
        read = list(video)
    assert len(read) == 9
    # lossy codecs: within a few grey levels
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(read, frames(9))) < 6


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("size", [(47, 64), (48, 65), (1, 1)])
def test_odd_sides_lose_nothing(tmp_path, suffix, size):
    with VideoWriter(tmp_path / f"clip{suffix}", 10, size) as writer:
        for frame in frames(3, size):
            writer.write(frame)
    with VideoReader(tmp_path / f"clip{suffix}") as video:
        assert video.size == tuple(side + side % 2 for side in size)
        read = list(video)
    assert len(read) == 3
    for image, frame in zip(read, frames(3, size)):
        assert np.abs(image[: size[0], : size[1]].astype(int) - frame).mean() < 8


@pytest.mark.parametrize("rate", [119.927, 29.8765, 0.5, 1000.0])
def test_every_rate_can_be_written(tmp_path, rate):
    with VideoWriter(tmp_path / "clip.mp4", rate, (48, 64)) as writer:
        writer.write(frames(1)[0])
    with VideoReader(tmp_path / "clip.mp4") as video:
        assert video.rate == pytest.approx(rate, rel=1e-3)


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected"), VideoWriter(tmp_path / "clip.mp4", 10, (48, 64)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.write(np.zeros((50, 64, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_stop_by_the_user_leaves_a_playable_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "clip.mp4", 10, (48, 64)) as writer:
        for frame in frames(4):
            writer.write(frame)
        raise KeyboardInterrupt
    assert len(list(VideoReader(tmp_path / "clip.mp4"))) == 4


def test_unreadable_video_is_named(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        VideoReader(tmp_path / "broken.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # bytes a file may have, as on a disk that is full
    try:
        with (
            pytest.raises(OSError, match="is the disk full"),
            VideoWriter(tmp_path / f"a{suffix}", 10, (240, 320)) as out,
        ):
            for frame in noise:
                out.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_missing_from_a_file_are_told(tmp_path, caplog, monkeypatch):
    with VideoWriter(tmp_path / "clip.avi", 10, (240, 320)) as writer:
        for frame in np.random.default_rng(0).integers(0, 256, (30, 240, 320, 3), np.uint8):
            writer.write(frame)
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(logging.getLogger("vision"), "propagate", True)
    with caplog.at_level(logging.WARNING), VideoReader(tmp_path / "cut.avi") as video:
        read = len(list(video))
    assert 0 < read < 30
    assert f"only {read} of the 30 frames" in caplog.text
