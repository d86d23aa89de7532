from .files import predict_files as predict_files
from .outputs import OutputError as OutputError
from .predictor import Prediction as Prediction
from .predictor import predict as predict
from .quality import QualityControl as QualityControl
from .quality import QualityModel as QualityModel
from .quality import load_quality_control as load_quality_control
from .search import find_images as find_images
from .search import list_images as list_images
from .trained import Models as Models
from .trained import Part as Part
from .trained import load_models as load_models

__all__ = [
    "Models",
    "OutputError",
    "Part",
    "Prediction",
    "QualityControl",
    "QualityModel",
    "find_images",
    "list_images",
    "load_models",
    "load_quality_control",
    "predict",
    "predict_files",
]
