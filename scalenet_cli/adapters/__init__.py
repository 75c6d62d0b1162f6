"""The table of adapters: the plan's ``adapter.type`` -> what that kind of adapter is.

The keys of a plan that go with each are in ``plan.schema.ADAPTER_PLANS``, under the same names.
"""

from collections.abc import Mapping
from typing import Final

from scalenet_cli.adapters.base import AdapterKind
from scalenet_cli.adapters.bottleneck import LORA, PARALLEL

ADAPTERS: Final[Mapping[str, AdapterKind]] = {"parallel": PARALLEL, "lora": LORA}
