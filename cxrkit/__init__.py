"""cxrkit: the reference kit for chest X-ray transformers (Park et al. 2021). Not a diagnostic
device.
"""

__version__ = "0.1.0"

NOTICE = (
    "Research and teaching only. Not a diagnostic device; do not use for the care of a patient."
)
