"""Criteria: what the saliency benchmark measures on a map."""

# name -> what it measures, and whether more of it (+1) or less (-1) speaks for a method
CRITERIA = {
    "pointing": ("pointing game: strongest point within one cell of the lesion", 1),
    "touching": ("pointing game: strongest cell touches the lesion", 1),
    "lesion": ("share of the map inside the lesion", 1),
    "lungs": ("share of the map inside the lungs", 1),
    "deletion": ("class probability, strongest cells deleted first (area)", -1),
    "insertion": ("class probability, strongest cells inserted first (area)", 1),
    "stability": ("rank correlation with the map of a noisier image", 1),
    "randomised": ("size of the rank correlation with the map of shuffled weights", -1),
    "saturation": ("where the class is sure: share of other classes with a larger map", -1),
    "seconds": ("seconds a map", -1),
}
SURE = 0.9  # probability from which a class counts as sure (saturation)
