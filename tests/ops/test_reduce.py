import torch

from vision.ops.reduce import global_mean_count


def test_one_process_clamps_and_detaches():
    assert global_mean_count(torch.tensor(0)).item() == 1.0
    count = global_mean_count(torch.tensor(7.5, requires_grad=True))
    assert count.item() == 7.5
    assert not count.requires_grad


def test_ranks_share_the_mean_and_keep_their_own_count(monkeypatch):
    # two ranks that counted 0 (this one) and 5: both divide by 2.5
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(5.0))
    count = torch.tensor(0.0)
    assert global_mean_count(count).item() == 2.5
    assert count.item() == 0.0
