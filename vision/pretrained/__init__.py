"""Public checkpoints under our keys: torchvision_backbones, torchvision_two_stage, dense (torchvision's one-stage
detectors), segmentation (torchvision's and segmentation_models.pytorch's)."""
