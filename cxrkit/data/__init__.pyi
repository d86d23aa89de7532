import cxrkit.config.choices as _choices
import cxrkit.config.vocabulary as _vocabulary

from . import lung_zones as lung_zones
from .cache import CachedImages as CachedImages
from .cache import cached_images as cached_images
from .datasets import CXRDataset as CXRDataset
from .datasets import external_or_test as external_or_test
from .datasets import image_dataset as image_dataset
from .datasets import make_loader as make_loader
from .datasets import severity_arrays as severity_arrays
from .datasets import split_parts as split_parts
from .fetching import fetch as fetch
from .fetching import verify as verify
from .images import Image as Image
from .images import ImageError as ImageError
from .images import load_image as load_image
from .images import load_images as load_images
from .leakage import find_leaks as find_leaks
from .lung_zones import ZONE_NAMES as ZONE_NAMES
from .lung_zones import brixia_to_array as brixia_to_array
from .lung_zones import contours as contours
from .lung_zones import coverage as coverage
from .lung_zones import roi_pool as roi_pool
from .lung_zones import severity_score as severity_score
from .lung_zones import sides as sides
from .lung_zones import zones as zones
from .lung_zones import zones_of_sides as zones_of_sides
from .manifests import has as has
from .manifests import leaks as leaks
from .manifests import read_manifest as read_manifest
from .manifests import read_patients as read_patients
from .manifests import select_views as select_views
from .manifests import split_of as split_of
from .masked_images import cover as cover
from .masks import clean_mask as clean_mask
from .masks import load_mask as load_mask
from .preprocessing import blur as blur
from .preprocessing import equalize as equalize
from .preprocessing import normalize as normalize
from .preprocessing import prepare as prepare
from .preprocessing import preprocess as preprocess
from .preprocessing import resize as resize
from .preprocessing import to_uint8 as to_uint8

Choices = _choices.Choices
OPEN_CHOICES = _choices.OPEN_CHOICES
BRIXIA = _vocabulary.BRIXIA
DIAGNOSES = _vocabulary.DIAGNOSES
FINDINGS = _vocabulary.FINDINGS
ZONES = _vocabulary.ZONES

__all__ = [
    "cover",
    "lung_zones",
    "OPEN_CHOICES",
    "Choices",
    "BRIXIA",
    "CXRDataset",
    "CachedImages",
    "DIAGNOSES",
    "FINDINGS",
    "Image",
    "ImageError",
    "ZONES",
    "ZONE_NAMES",
    "blur",
    "brixia_to_array",
    "cached_images",
    "clean_mask",
    "contours",
    "coverage",
    "equalize",
    "external_or_test",
    "fetch",
    "find_leaks",
    "has",
    "image_dataset",
    "leaks",
    "load_image",
    "load_images",
    "load_mask",
    "make_loader",
    "normalize",
    "prepare",
    "preprocess",
    "read_manifest",
    "read_patients",
    "resize",
    "roi_pool",
    "select_views",
    "severity_arrays",
    "severity_score",
    "sides",
    "split_of",
    "split_parts",
    "to_uint8",
    "verify",
    "zones",
    "zones_of_sides",
]
