"""Schedules against torch's own, the warm-up in front of each, plateau's state."""

import pytest
import torch
from torch.optim import lr_scheduler

from vision.engine.schedule import SCHEDULES, ScheduleConfig, build_schedule

STEPS = 60


def optimizer_at(lr=1.0, **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **options)


def torch_curve(build):
    optimizer = optimizer_at(momentum=0.9)
    scheduler, factors = build(optimizer), []
    for _ in range(STEPS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def curve(**settings):
    schedule = build_schedule(ScheduleConfig(**{"warmup": 0, **settings}), STEPS)
    return [schedule.factor(step) for step in range(STEPS)]


ORACLES = {
    "constant": ({}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    "step": ({"every": 20, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, 20, 0.5)),
    "multi_step": ({"milestones": [10, 45], "gamma": 0.2}, lambda o: lr_scheduler.MultiStepLR(o, [10, 45], 0.2)),
    "exponential": ({"every": 1, "gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "polynomial": ({"final": 0.0, "power": 0.9}, lambda o: lr_scheduler.PolynomialLR(o, STEPS, 0.9)),
    "cosine": ({"final": 0.01}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.01)),
    "cyclic": (
        {"final": 0.1, "cycles": 3},
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 10, cycle_momentum=False),
    ),
    "one_cycle": (
        {"start": 0.04, "final": 0.0004, "rise": 0.3},
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS, div_factor=25, final_div_factor=100),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_equal_to_torch(name):
    settings, build = ORACLES[name]
    assert curve(name=name, **settings) == pytest.approx(torch_curve(build), abs=1e-9)


def test_cosine_restarts_equal_torch():
    # cycles of 20 and 40 steps
    expected = torch_curve(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 20, 2, 0.1))
    assert curve(name="cosine", cycles=2, cycle_growth=2.0, final=0.1) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mode", ["triangular2", "exp_range"])
def test_cyclic_modes_equal_torch(mode):
    gamma = 0.99
    expected = torch_curve(
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 10, mode=mode, gamma=gamma, cycle_momentum=False)
    )
    # torch's gamma is per step, ours per cycle of 20 steps
    ours = curve(name="cyclic", cycles=3, final=0.1, cyclic_mode=mode, gamma=gamma**20)
    assert ours == pytest.approx(expected, abs=1e-9)


def test_momentum_of_one_cycle_equals_torch():
    optimizer = optimizer_at(momentum=0.9)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, 1.0, STEPS, div_factor=25, final_div_factor=1, base_momentum=0.85, max_momentum=0.95
    )
    config = ScheduleConfig(name="one_cycle", start=0.04, final=0.04, cycle_momentum=(0.95, 0.85))
    schedule, own = build_schedule(config, STEPS), optimizer_at(momentum=0.9)
    own.param_groups[0]["initial_lr"] = 1.0
    for step in range(STEPS):
        schedule.apply(own, step)
        assert own.param_groups[0]["momentum"] == pytest.approx(optimizer.param_groups[0]["momentum"], abs=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one_cycle"])
def test_warmup_in_front_of_every_schedule(name):
    plain = ScheduleConfig(name=name, warmup=0, every=7, milestones=[9, 30])
    warm = ScheduleConfig(name=name, warmup=10, warmup_start=0.1, every=7, milestones=[9, 30])
    after, schedule = build_schedule(plain, STEPS - 10), build_schedule(warm, STEPS)
    assert [schedule.factor(step) for step in range(10)] == pytest.approx([0.1 + 0.09 * step for step in range(10)])
    assert [schedule.factor(step + 10) for step in range(50)] == [after.factor(step) for step in range(50)]
    share = build_schedule(ScheduleConfig(name=name, warmup=0.25), STEPS)
    assert share.warmup == 15


def test_plateau_equals_torch():
    optimizer = optimizer_at()
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=1, threshold=0.01)
    config = ScheduleConfig(name="plateau", gamma=0.5, patience=1, threshold=0.01, warmup=0, final=0.0)
    ours = build_schedule(config, STEPS)
    for metric in (0.1, 0.2, 0.2, 0.2005, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.5):
        theirs.step(metric)
        ours.observe(metric)
        assert ours.factor(20) == pytest.approx(optimizer.param_groups[0]["lr"])
    other = build_schedule(config, STEPS)
    other.load_state_dict(ours.state_dict())
    for schedule in (ours, other):
        schedule.observe(0.4)
        schedule.observe(0.4)
    assert ours.factor(20) == other.factor(20) < 1


def test_plateau_of_a_negated_metric_and_its_floor():
    schedule = build_schedule(ScheduleConfig(name="plateau", patience=0, final=0.02, warmup=0), STEPS)
    schedule.observe(float("-inf"))  # as when a Hausdorff distance is infinite
    schedule.observe(-1.0)
    schedule.observe(-0.5)
    assert schedule.factor(0) == 1
    for _ in range(5):
        schedule.observe(-0.6)
    assert schedule.factor(0) == 0.02
    schedule.observe(float("nan"))  # a validation without a defined metric changes nothing
    assert schedule.state_dict()["best"] == -0.5


def test_hold():
    schedule = build_schedule(ScheduleConfig(name="cosine", warmup=0), STEPS, hold=(0.75, 0.3))
    plain = build_schedule(ScheduleConfig(name="cosine", warmup=0), STEPS)
    assert [schedule.factor(step) for step in range(45)] == [plain.factor(step) for step in range(45)]
    assert {schedule.factor(step) for step in range(45, 60)} == {0.3}


def test_groups_keep_their_ratio():
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.1}])
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    factor = build_schedule(ScheduleConfig(), 100).apply(optimizer, 70)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor, 0.1 * factor])


def test_one_step_and_refusals():
    for name in SCHEDULES:
        assert 0 <= build_schedule(ScheduleConfig(name=name), 1).factor(0) <= 1
    with pytest.raises(ValueError, match="choose one of: constant, step"):
        build_schedule(ScheduleConfig(name="linear"), 10)
    with pytest.raises(ValueError, match="at least one"):
        build_schedule(ScheduleConfig(), 0)
    with pytest.raises(ValueError, match=r"schedule.rise"):
        ScheduleConfig(rise=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "one_cycle", "start": 1.0}, r"schedule\.start = 1\.0 .*less than 1 with cycle_momentum"),
        ({"name": "cyclic", "final": 1.0}, r"schedule\.final = 1\.0 .*less than 1"),
        ({"name": "cyclic", "cycle_momentum": (5.0, 2.0)}, r"schedule\.cycle_momentum = \(5\.0, 2\.0\).*0 <= m < 1"),
        ({"name": "cosine"}, "cosine has no cycle.*choose one_cycle or cyclic"),
        ({"name": "one_cycle", "warmup": 0.1}, r"schedule\.warmup = 0\.1: one_cycle has its own rise"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**{"cycle_momentum": (0.95, 0.85), **settings})
