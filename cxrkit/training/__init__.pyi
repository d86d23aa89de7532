from .batches import Order as Order
from .batches import Tensors as Tensors
from .checkpoint import load_tensors as load_tensors
from .checkpoint import load_weights as load_weights
from .checkpoint import save_tensors as save_tensors
from .devices import device_of as device_of
from .devices import pick_device as pick_device
from .loop import TrainingRun as TrainingRun
from .loop import evaluate as evaluate
from .loop import fit as fit
from .loop import outputs as outputs
from .losses import nonsaturating as nonsaturating
from .memory import training_bytes as training_bytes
from .random_state import seed_everything as seed_everything

__all__ = [
    "Order",
    "Tensors",
    "TrainingRun",
    "device_of",
    "evaluate",
    "fit",
    "load_tensors",
    "load_weights",
    "nonsaturating",
    "outputs",
    "pick_device",
    "save_tensors",
    "seed_everything",
    "training_bytes",
]
