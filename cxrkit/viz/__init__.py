"""Figures: curves and intervals, images with maps and masks, and sliders around them.

Every `plot_*` function takes arrays or tables and returns a matplotlib Figure; `explore` puts
controls around such a function. Importing this package and calling it leaves matplotlib's settings
and the notebook's display hooks as they are. It may import every package before it, up to
`inference`. The names below are loaded on first use.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
