"""Layers that several networks are built of.

By name: norm, activation, drop, init · blocks: conv, csp, attention, context (atrous and pyramid pooling), encoding ·
functions on maps: pooling, resize, noise · for speed: fold and fuse in inference, planar in training.
"""
