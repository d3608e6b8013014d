"""Whether code runs for real or is being recorded."""

import torch

__all__ = ["is_exporting"]

# torch 2.6 does not tell an export from a compilation: what is written for exporters is right for both
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
