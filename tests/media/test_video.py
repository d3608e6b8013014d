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
