from .files import list_images as list_images
from .files import predict_files as predict_files
from .predictor import Prediction as Prediction
from .predictor import predict as predict
from .quality import QualityControl as QualityControl
from .quality import QualityModel as QualityModel
from .quality import load_quality_control as load_quality_control
from .trained import Models as Models
from .trained import Part as Part
from .trained import load_models as load_models

__all__ = [
    "Models",
    "Part",
    "Prediction",
    "QualityControl",
    "QualityModel",
    "list_images",
    "load_models",
    "load_quality_control",
    "predict",
    "predict_files",
]
