"""AsFT (arXiv 2506.08473) for PyTorch Lightning: fine-tune an aligned language model and keep it safe.

The public names stand in ``__init__.pyi``; each is imported when it is asked for, so that a command loads what it needs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
