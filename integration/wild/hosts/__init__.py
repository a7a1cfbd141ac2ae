"""How to call the own loss of each trainer; none of them is needed to import this."""

from integration.wild.host import Host

from .easydel import EASYDEL
from .liger import LIGER
from .openrlhf import OPENRLHF
from .skyrl import SKYRL
from .torchrl import TORCHRL
from .trl import TRL
from .tunix import TUNIX
from .verl import VERL

HOSTS: tuple[Host, ...] = (TRL, VERL, LIGER, TUNIX, OPENRLHF, SKYRL, TORCHRL, EASYDEL)
