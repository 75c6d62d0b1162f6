"""The version of this package, and what files say of the program that wrote them."""

from importlib.metadata import version
from typing import Final

__version__: Final = version("scalenet-cli")
# "tool" of manifests, run records and reports.
TOOL: Final = f"scalenet-cli {__version__}"
