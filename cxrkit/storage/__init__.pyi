from .artifacts import Store as Store
from .artifacts import key as key
from .atomic import read_json as read_json
from .atomic import write_atomic as write_atomic
from .atomic import write_json as write_json
from .integrity import DamagedArtifact as DamagedArtifact
from .locations import data_root as data_root
from .locations import default_root as default_root
from .recorded import read_result as read_result
from .recorded import result_names as result_names
from .recorded import write_result as write_result
from .remote import RemoteStore as RemoteStore

__all__ = [
    "DamagedArtifact",
    "RemoteStore",
    "Store",
    "data_root",
    "default_root",
    "key",
    "read_json",
    "read_result",
    "result_names",
    "write_atomic",
    "write_json",
    "write_result",
]
