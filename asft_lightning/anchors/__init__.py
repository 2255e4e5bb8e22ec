"""Where the directions of the penalty come from: one small class a variant, and the set that keeps them.

The names stand in ``__init__.pyi``; each is imported when it is asked for: a file of anchors is read without Transformers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
