"""Modules in, modules out. Nothing here touches a file."""

from scalenet_cli.surgery.expand import Expansion as Expansion
from scalenet_cli.surgery.expand import expand as expand
from scalenet_cli.surgery.groups import group_parameters as group_parameters
from scalenet_cli.surgery.ties import verify_ties as verify_ties
