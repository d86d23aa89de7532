from .adain_networks import Generator as Generator
from .adain_networks import Translator as Translator
from .adain_networks import adain as adain
from .baselines import FEATURE_EXTRACTORS as FEATURE_EXTRACTORS
from .baselines import PATCH_SIZE as PATCH_SIZE
from .baselines import ResNet as ResNet
from .classifier import Classifier as Classifier
from .classifier import WeightedClassifier as WeightedClassifier
from .classifier import load_matching as load_matching
from .corpus_vit import CorpusViT as CorpusViT
from .densenet import POOLS as POOLS
from .densenet import Backbone as Backbone
from .densenet import pcam_pool as pcam_pool
from .densenet import pcam_weights as pcam_weights
from .densenet import receptive_field as receptive_field
from .densenet import weighted_maps as weighted_maps
from .factory import build_backbone as build_backbone
from .factory import build_classifier as build_classifier
from .factory import build_feature_extractor as build_feature_extractor
from .interventions import INTERVENTIONS as INTERVENTIONS
from .local_evidence import LocalEvidence as LocalEvidence
from .pretrained import load_features as load_features
from .simclr import TEMPERATURE as TEMPERATURE
from .simclr import ContrastiveNetwork as ContrastiveNetwork
from .simclr import nt_xent as nt_xent
from .unet import UNet as UNet
from .zone_calibration import ZoneCalibration as ZoneCalibration

__all__ = [
    "FEATURE_EXTRACTORS",
    "INTERVENTIONS",
    "PATCH_SIZE",
    "POOLS",
    "TEMPERATURE",
    "Backbone",
    "Classifier",
    "ContrastiveNetwork",
    "CorpusViT",
    "Generator",
    "LocalEvidence",
    "ResNet",
    "Translator",
    "UNet",
    "WeightedClassifier",
    "ZoneCalibration",
    "adain",
    "build_backbone",
    "build_classifier",
    "build_feature_extractor",
    "load_features",
    "load_matching",
    "nt_xent",
    "pcam_pool",
    "pcam_weights",
    "receptive_field",
    "weighted_maps",
]
