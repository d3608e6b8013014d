"""Heads that several models share: dense (every place of a pyramid), rpn, roi, mask, segment, panoptic.

A head that one paper alone has is beside its model.
"""
