"""Regularisation of any model without changing it: by hooks on its backbone, and on its weights around each step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vision.engine.settings import RegularizeConfig
from vision.layers.drop import add_stochastic_depth, build_drop
from vision.layers.noise import GaussianNoise

__all__ = ["ActivityPenalty", "PenalisedStep", "RegularizeConfig", "Regularizer"]


class Regularizer:
    """What `config` asks for, at the places of a training step where it belongs.

        regularizer = Regularizer(model, config)          once: input noise, dropout of features, stochastic depth
        step = regularizer.wrap(TrainStep(model))         once: the activity penalty as one more loss
        with regularizer.noisy_weights(): ...backward()   each step
        regularizer.clip(parameters)                      each step, before the optimiser's
        regularizer.after_step(optimizer)                 each step, after the optimiser's: L1, norm constraints

    Nothing here has state of its own; the noise comes from torch's generator. Copy a model (for an average) before.
    ValueError when the model has no `backbone` and a setting needs one.
    """

    def __init__(self, model: nn.Module, config: RegularizeConfig):
        self.config = config
        self._weights = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim > 1]
        self._activity: ActivityPenalty | None = None
        if not (config.input_noise or config.dropout or config.drop_path or config.activity):
            return
        backbone = getattr(model, "backbone", None)
        if backbone is None:
            raise ValueError(
                f"regularize: {type(model).__name__} has no backbone; noise, dropout and activity need one"
            )
        if config.drop_path:
            add_stochastic_depth(backbone, config.drop_path)
        if config.input_noise:
            backbone.register_forward_pre_hook(_OnInput(GaussianNoise(config.input_noise)))
        if config.activity:
            self._activity = ActivityPenalty(config.activity, config.activity_kind)
            backbone.register_forward_hook(self._activity)
        if config.dropout:
            drop = build_drop(config.dropout_kind, config.dropout, block_size=config.block_size)
            backbone.register_forward_hook(_OnOutput(drop))

    def wrap(self, train_step: nn.Module) -> nn.Module:
        """`train_step` (images, targets) -> losses, with the loss "activity" added where it is asked for."""
        return train_step if self._activity is None else PenalisedStep(train_step, self._activity)

    @contextlib.contextmanager
    def noisy_weights(self) -> Iterator[None]:
        """Within, the weights carry noise; afterwards they are, to the bit, what they were (Graves, NeurIPS 2011)."""
        if not self.config.weight_noise:
            yield
            return
        kept = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            for weight in self._weights:
                size = weight.square().mean().sqrt() * self.config.weight_noise
                weight.addcmul_(torch.randn_like(weight), size)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([weight.detach() for weight in self._weights], kept)

    @property
    def changed(self) -> list[Tensor]:
        """The weights that `after_step` may change."""
        return self._weights if self.config.l1 or self.config.constraint != "none" else []

    def clip(self, parameters: list[nn.Parameter]) -> None:
        """Limits each value of the gradients to +-clip_value."""
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.config.clip_value)

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """The proximal step of L1, then the constraint on the filters' norms."""
        if self.config.l1:
            for group in optimizer.param_groups:
                weights = [weight for weight in group["params"] if weight.ndim > 1]
                soft_threshold(weights, group["lr"] * self.config.l1)
        if self.config.constraint != "none":
            for weight in self._weights:
                constrain(weight, self.config.constraint, self.config.max_norm)


def soft_threshold(weights: list[Tensor], threshold: float) -> None:
    """sign(w) max(|w| - threshold, 0), in place: the proximal operator of threshold * |w| (ISTA)."""
    if not weights:
        return
    sizes = torch._foreach_abs(weights)
    torch._foreach_sub_(sizes, threshold)
    torch._foreach_clamp_min_(sizes, 0.0)
    torch._foreach_mul_(sizes, [weight.sign() for weight in weights])
    torch._foreach_copy_(weights, sizes)


def constrain(weight: Tensor, kind: str, max_norm: float) -> None:
    """Scales each filter weight[i] in place to a norm of at most `max_norm` ("max_norm"; JMLR 15, 2014) or of 1."""
    norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True).clamp(min=1e-12)
    weight.mul_((max_norm / norm).clamp(max=1) if kind == "max_norm" else 1 / norm)


class ActivityPenalty:
    """A forward hook that keeps strength * mean |x| or mean x^2 of a module's outputs, averaged over its tensors."""

    def __init__(self, strength: float, kind: str = "l2"):
        self.strength, self.kind = strength, kind
        self.values: list[Tensor] = []

    def __call__(self, module: nn.Module, inputs: Any, outputs: Tensor | list[Tensor]) -> None:
        if module.training:
            features = [outputs] if isinstance(outputs, Tensor) else list(outputs)
            sizes = [x.float().abs().mean() if self.kind == "l1" else x.float().square().mean() for x in features]
            self.values.append(self.strength * torch.stack(sizes).mean())


class PenalisedStep(nn.Module):
    """A train step whose losses have "activity" among them."""

    def __init__(self, train_step: nn.Module, activity: ActivityPenalty):
        super().__init__()
        self.train_step, self.activity = train_step, activity

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        self.activity.values.clear()
        losses = dict(self.train_step(images, targets))
        losses["activity"] = torch.stack(self.activity.values).sum()
        self.activity.values.clear()
        return losses


class _OnInput:
    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, module: nn.Module, inputs: tuple) -> tuple:
        self.layer.train(module.training)
        return (self.layer(inputs[0]), *inputs[1:])


class _OnOutput:
    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, module: nn.Module, inputs: Any, outputs: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        self.layer.train(module.training)
        return self.layer(outputs) if isinstance(outputs, Tensor) else [self.layer(x) for x in outputs]
