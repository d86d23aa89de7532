from .choices import OPEN_CHOICES as OPEN_CHOICES
from .choices import Choices as Choices
from .profiles import ablations as ablations
from .profiles import demo as demo
from .profiles import dry as dry
from .profiles import get as get
from .profiles import mini as mini
from .profiles import paper as paper
from .profiles import public as public
from .sections import DenseNet as DenseNet
from .sections import Profile as Profile
from .sections import Training as Training
from .sections import Variant as Variant
from .sections import ViT as ViT
from .settings_file import resolve_profile as resolve_profile

__all__ = [
    "OPEN_CHOICES",
    "Choices",
    "DenseNet",
    "Profile",
    "Training",
    "Variant",
    "ViT",
    "ablations",
    "demo",
    "dry",
    "get",
    "mini",
    "paper",
    "public",
    "resolve_profile",
]
