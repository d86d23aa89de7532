from .follow_up import changes as changes
from .follow_up import series as series
from .linear_probe import assign_folds as assign_folds
from .linear_probe import border as border
from .linear_probe import compare_with_best as compare_with_best
from .linear_probe import fit_probe as fit_probe
from .linear_probe import mean_over_sites as mean_over_sites
from .linear_probe import out_of_fold_predictions as out_of_fold_predictions
from .linear_probe import pooled_features as pooled_features
from .linear_probe import run_probes as run_probes
from .linear_probe import trivial_features as trivial_features
from .metrics import at_threshold as at_threshold
from .metrics import auc as auc
from .metrics import auc_ci as auc_ci
from .metrics import balanced_accuracy as balanced_accuracy
from .metrics import bland_altman as bland_altman
from .metrics import brier as brier
from .metrics import decision_curve as decision_curve
from .metrics import delong_test as delong_test
from .metrics import ece as ece
from .metrics import holm as holm
from .metrics import macro_auc as macro_auc
from .metrics import operating_point as operating_point
from .metrics import quadratic_kappa as quadratic_kappa
from .metrics import reliability as reliability
from .metrics import severity_metrics as severity_metrics
from .overlap import dice as dice
from .overlap import group_label as group_label
from .overlap import jaccard as jaccard
from .overlap import summary_table as summary_table
from .overlap import surface_distance as surface_distance
from .resampling import bootstrap as bootstrap
from .resampling import paired_bootstrap as paired_bootstrap
from .summaries import by_split as by_split
from .summaries import metrics_of as metrics_of
from .summaries import sites_of as sites_of
from .trained_seeds import auc_difference_of_seeds as auc_difference_of_seeds
from .trained_seeds import auc_of_seeds as auc_of_seeds
from .trained_seeds import conclude as conclude
from .trained_seeds import mean_of_seeds as mean_of_seeds

__all__ = [
    "border",
    "assign_folds",
    "at_threshold",
    "auc",
    "auc_ci",
    "auc_difference_of_seeds",
    "auc_of_seeds",
    "balanced_accuracy",
    "bland_altman",
    "bootstrap",
    "brier",
    "by_split",
    "changes",
    "compare_with_best",
    "conclude",
    "decision_curve",
    "delong_test",
    "dice",
    "ece",
    "fit_probe",
    "group_label",
    "holm",
    "jaccard",
    "macro_auc",
    "mean_over_sites",
    "metrics_of",
    "operating_point",
    "out_of_fold_predictions",
    "paired_bootstrap",
    "pooled_features",
    "quadratic_kappa",
    "reliability",
    "run_probes",
    "series",
    "severity_metrics",
    "sites_of",
    "summary_table",
    "surface_distance",
    "trivial_features",
]
