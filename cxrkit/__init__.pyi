from .data.images import load_image as load_image
from .inference.predictor import predict as predict
from .pipeline.run import Run as Run

NOTICE: str
__version__: str
__all__ = ["Run", "load_image", "predict"]
