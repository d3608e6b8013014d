"""Weight means and re-estimated batch norms."""

import copy

import pytest
import torch
from torch import nn

from vision.engine.swa import WeightMean, with_new_batch_norm


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def test_mean_of_what_was_shown():
    model, seen = nn.Linear(3, 2), []
    mean = WeightMean(model)
    for step in range(5):
        nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(step))
        seen.append(model.weight.detach().clone())
        mean.update(model)
    torch.testing.assert_close(mean.module.weight.detach(), torch.stack(seen).mean(0))


def test_equal_to_torch():
    model = small()
    theirs, ours = torch.optim.swa_utils.AveragedModel(model, use_buffers=True), WeightMean(model)
    for step in range(4):
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(step))
        theirs.update_parameters(model)
        ours.update(model)
    for own, other in zip(ours.module.parameters(), theirs.module.parameters()):
        torch.testing.assert_close(own, other)


def test_resume_is_exact():
    model = small()
    first = WeightMean(model)
    nn.init.normal_(model[0].weight)
    first.update(model)
    second = WeightMean(small())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    nn.init.normal_(model[0].weight)
    first.update(model)
    second.update(model)
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name])


def test_new_batch_norm_makes_outputs_standard():
    # the running statistics are wrong by far; with the ones of the data each channel has mean 0 and variance 1
    model = small()
    for norm in (model[1], model[3]):
        norm.running_mean.fill_(7.0)
        norm.running_var.fill_(100.0)
    batches = torch.randn(8, 16, 3, 12, 12, generator=torch.Generator().manual_seed(0)).unbind()
    renewed = with_new_batch_norm(model, batches)
    outputs = renewed(torch.cat(batches))
    torch.testing.assert_close(outputs.mean((0, 2, 3)), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(outputs.var((0, 2, 3)), torch.ones(2), atol=0.05, rtol=0)
    assert model[1].running_mean[0] == 7  # the model itself is left alone
    assert not renewed.training


def test_every_batch_counts_alike():
    model = small()
    batches = [torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) + seed for seed in range(4)]
    renewed = with_new_batch_norm(model, batches)
    with torch.no_grad():
        expected = torch.stack([model[0](batch).mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(renewed[1].running_mean, expected)


def test_without_batch_norm_or_batches():
    plain = nn.Conv2d(3, 4, 1)
    assert with_new_batch_norm(plain, []) is plain
    with pytest.raises(ValueError, match="no batch"):
        with_new_batch_norm(small(), [])
