"""The reading room: one image, and everything that the models predict for it, on one page.

`Room` holds the models and a list of samples, `draw_panel` draws a figure of one of them,
`ReadingRoom` and `QuizPage` put controls around both. It may import every package before it. The
names below are loaded on first use.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
