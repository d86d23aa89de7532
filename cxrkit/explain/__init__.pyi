from .attention_lrp import attnlrp as attnlrp
from .comparison import CONCLUSIONS as CONCLUSIONS
from .comparison import paired_differences as paired_differences
from .comparison import rank_methods as rank_methods
from .comparison import read_cascade as read_cascade
from .comparison import summarise_cascade as summarise_cascade
from .comparison import typical_images as typical_images
from .conversion import ConvertedViT as ConvertedViT
from .conversion import Unsupported as Unsupported
from .conversion import convert as convert
from .conversion import explain as explain
from .criteria import CRITERIA as CRITERIA
from .deep_taylor import RULES as RULES
from .deep_taylor import CorpusViT as CorpusViT
from .deep_taylor import linear_rule as linear_rule
from .deep_taylor import recorded as recorded
from .deep_taylor import relevance as relevance
from .deep_taylor import trace as trace
from .measures import cascade as cascade
from .measures import map_size as map_size
from .measures import near as near
from .measures import pointing as pointing
from .measures import rank_correlation as rank_correlation
from .measures import removal as removal
from .methods import CLASS_INDEPENDENT as CLASS_INDEPENDENT
from .methods import DEFAULT_METHOD as DEFAULT_METHOD
from .methods import METHODS as METHODS
from .methods import Explanation as Explanation
from .methods import through_backbone as through_backbone
from .methods import upsample as upsample
from .saliency_benchmark import COVID as COVID
from .saliency_benchmark import EvaluationSet as EvaluationSet
from .saliency_benchmark import Sample as Sample
from .saliency_benchmark import benchmark as benchmark
from .saliency_benchmark import evaluation_set as evaluation_set
from .saliency_benchmark import make_sample as make_sample
from .saliency_benchmark import measure_removal as measure_removal
from .saliency_benchmark import randomise_in_steps as randomise_in_steps
from .saliency_benchmark import read_all_boxes as read_all_boxes
from .saliency_benchmark import read_boxes as read_boxes
from .saliency_benchmark import summarise as summarise
from .targets import LogOdds as LogOdds
from .targets import Margin as Margin

__all__ = [
    "CorpusViT",
    "CLASS_INDEPENDENT",
    "CONCLUSIONS",
    "COVID",
    "CRITERIA",
    "DEFAULT_METHOD",
    "METHODS",
    "RULES",
    "ConvertedViT",
    "EvaluationSet",
    "Explanation",
    "LogOdds",
    "Margin",
    "Sample",
    "Unsupported",
    "attnlrp",
    "benchmark",
    "cascade",
    "convert",
    "evaluation_set",
    "explain",
    "linear_rule",
    "make_sample",
    "map_size",
    "measure_removal",
    "near",
    "paired_differences",
    "pointing",
    "randomise_in_steps",
    "rank_correlation",
    "rank_methods",
    "read_all_boxes",
    "read_boxes",
    "read_cascade",
    "recorded",
    "relevance",
    "removal",
    "summarise",
    "summarise_cascade",
    "through_backbone",
    "trace",
    "typical_images",
    "upsample",
]
