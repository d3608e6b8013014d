"""Tensor functions without weights, files or configuration.

Boxes: boxes, coders, anchors, default_boxes, points · which object a place answers for: assign, match, anchor_match,
sample · what is kept: nms, static_nms, heatmap, roi · masks and maps: masks, stored_masks, open_image, panoptic,
components, distance, crf with permutohedral, histogram, padding · processes and exporters: reduce, tracing.
"""
