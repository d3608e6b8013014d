"""Training, evaluation, prediction and export: what the command line calls.

Settings: config and settings, options and option_parts (from the command line) · a run: train builds its parts, trainer
is its loop; optim, schedule, budget, batch_size, ema, swa, regularize, gradients, faults, verdict, find_lr; selection
validates and keeps the best · its files: run_folder, state, checkpoint, log, files, output · results: inference with
tiled and tta, evaluate, predict with sources and prediction_files, panoptic, export · the machine: device, malloc,
threads, interrupt · weights: checkpoint, public · demo.
"""
