"""The options that image classification owns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from scalenet_cli.models.source_options import parse_numbers
from scalenet_cli.tasks.options import Option, TaskOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Where labelled images are, and what their folders mean."""

    dataset: Annotated[
        str,
        Option(
            metavar="NAME",
            help="timm's name: hfds/food101, torch/cifar10, wds/imagenet. Folders need none.",
        ),
    ] = ""
    class_map: Annotated[
        str | None,
        Option(metavar="FILE", help="Text with one class name per line: its line is its target."),
    ] = None
    skip_corrupt: Annotated[bool, Option(help="Leave damaged images out; count them.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneFlags(ImageData):
    """Of ``scalenet finetune``."""

    num_classes: Annotated[
        int | None, Option(metavar="N", minimum=1, help="Classes, where the data do not tell.")
    ] = None
    reset_head: Annotated[bool, Option(help="Train a new head.")] = False
    digest: Annotated[
        bool,
        Option(
            flag="--data-digest",
            help="Read all images once for a digest, to tell at --resume whether they changed.",
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImageData(ImageData):
    """How images are prepared, where that is not the model's own way."""

    mean: Annotated[
        str | None,
        Option(
            metavar="N,N,N",
            help="Mean per channel, such as 0,0,0; by default this and the five below are the "
            "model's own.",
        ),
    ] = None
    std: Annotated[str | None, Option(metavar="N,N,N", help="Deviation per channel.")] = None
    crop_pct: Annotated[
        float | None, Option(metavar="N", help="Size of the crop, as a share of the resized image.")
    ] = None
    crop_mode: Annotated[str | None, Option(metavar="MODE", help="center, border or squash.")] = (
        None
    )
    interpolation: Annotated[
        str | None,
        Option(metavar="MODE", help="nearest, bilinear, bicubic, box, hamming or lanczos."),
    ] = None
    input_size: Annotated[
        int | None, Option(metavar="N", help="Image side in pixels, where the model takes any.")
    ] = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What was given of timm's data config.

        Raises:
            OptionError: something that has to be a list of numbers is not.
        """
        given = {
            "mean": None if self.mean is None else parse_numbers(self.mean, "--mean"),
            "std": None if self.std is None else parse_numbers(self.std, "--std"),
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "input_size": self.input_size,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFlags(PreparedImageData):
    """Of ``scalenet eval``."""

    workers: Annotated[
        int | None,
        Option(
            metavar="N",
            minimum=0,
            maximum=4096,
            help="Processes that read images; by default one per core, at most 8.",
        ),
    ] = None
    channels_last: Annotated[bool, Option(help="Memory format of images.")] = False
    confusion: Annotated[
        Path | None,
        Option(metavar="FILE", help="Write images by target and prediction: .csv or .json."),
    ] = None
    predictions: Annotated[
        Path | None, Option(metavar="FILE", help="Write one row per image: .csv or .parquet.")
    ] = None
    force: Annotated[bool, Option(help="Replace the files of --confusion and --predictions.")] = (
        False
    )


OPTIONS: Final = TaskOptions(
    models="image classifiers",
    a_model="an image classifier",
    records={"finetune": FinetuneFlags, "eval": EvalFlags, "diagnose": PreparedImageData},
)
