"""Losses, for every model.

Segmentation: pixels, region with region_sums, lovasz, boundary; terms reads them from a recipe, compose adds them up ·
detection: boxes, and detection, which chooses by name · both: classification, mining · beneath: reduction, known_slope,
ranges.
"""
