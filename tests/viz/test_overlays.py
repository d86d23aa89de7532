"""Saliency maps over images."""

import numpy as np

from cxrkit.viz import overlays


def test_each_map_says_its_size():
    """Maps of four cells whose positive parts sum to 2, 1 and 0."""
    images = np.zeros((1, 16, 16), np.uint8)
    maps = np.zeros((1, 3, 2, 2))
    maps[0, 0, 0], maps[0, 1, 0, 0], maps[0, 2, 1, 1] = 1, 1, -5
    names = (["a film"], ["a", "b", "c"], "Three classes")
    figure = overlays.plot_saliency(images, maps, *names, sizes=True)
    found = [axis.get_xlabel() for axis in figure.axes]
    assert found[1:4] == ["size 1", "size 0.5", "size 0"]
    figure = overlays.plot_saliency(images, maps, *names)
    assert not any(axis.get_xlabel() for axis in figure.axes)
