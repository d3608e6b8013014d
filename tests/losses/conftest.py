"""What several tests of losses need."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile


@pytest.fixture(scope="session")
def peak():
    """`peak(loss, logits, labels)`: the most memory that a forward and a backward pass allocate at once, in tensors of
    the logits' size."""

    def measure(loss, logits, labels):
        logits = logits.clone().requires_grad_()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            loss(logits, labels).backward()
        events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).cumsum(0)
        return held.max().item() / (logits.numel() * logits.element_size())

    return measure
