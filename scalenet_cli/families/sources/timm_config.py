"""The config.json that timm writes beside the weights it publishes."""

from collections.abc import Mapping
from typing import Any

from scalenet_cli.errors import CheckpointUnreadable
from scalenet_cli.families.timm_arguments import PREPROCESSING


def label_names_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes in the order of the outputs; none where the config has no such list.

    timm takes an object, too: number of an output -> name.
    """
    names = config.get("label_names")
    if isinstance(names, dict):
        names = [names.get(str(output)) for output in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Timm's arguments and preprocessing in such a config.

    Raises:
        CheckpointUnreadable: an entry of the wrong kind.
    """
    arguments = config.get("model_args", {})
    pretrained = config.get("pretrained_cfg", {})
    if not isinstance(arguments, dict) or not isinstance(pretrained, dict):
        raise CheckpointUnreadable("model_args and pretrained_cfg of config.json are no mappings")
    kept = {key: pretrained[key] for key in PREPROCESSING if pretrained.get(key) is not None}
    if "num_classes" in config:
        kept["num_classes"] = config["num_classes"]
    return {**kept, **arguments}
