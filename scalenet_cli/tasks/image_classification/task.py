"""Image classification as an entry of TASKS. What needs torch is imported where it is used."""

from typing import TYPE_CHECKING, Any, Final, final

from scalenet_cli.tasks.image_classification import NAME
from scalenet_cli.tasks.image_classification.metrics import METRICS
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.tasks.image_classification.refuse_data import refuse_data

if TYPE_CHECKING:
    from scalenet_cli.measure.diagnosed_model import DiagnosedModel
    from scalenet_cli.measure.throughput import Work as BenchWork
    from scalenet_cli.tasks.base import OpenedData
    from scalenet_cli.tasks.requests import (
        BenchRequest,
        DataRequest,
        Diagnosis,
        EvalRequest,
        EvalResult,
        Parts,
        Progress,
        Request,
    )

# By the kind of device.
_BENCH_BATCH: Final = {"cpu": 8, "mps": 16, "cuda": 64}


@final
class ImageClassification:
    """See tasks.base.Task."""

    name = NAME
    metrics = METRICS
    recipe = ImageRecipe
    sample_unit = "images"
    threshold_examples = "for example top1=82.5,top5=96 (per cent, at least) or loss=0.9 (at most)"

    def refuse_data(self, data: str | None, dataset: str, target: str) -> None:
        """See Task."""
        refuse_data(data, dataset, target)

    def prepare_run(self, request: "Request", recipe: Any) -> "Parts":
        """See Task."""
        from scalenet_cli.tasks.image_classification.prepare_run import prepare_images

        return prepare_images(request, recipe)

    def open_data(self, request: "DataRequest") -> "OpenedData":
        """See Task."""
        from scalenet_cli.tasks.image_classification.study_data import open_images

        return open_images(request)

    def evaluate(self, request: "EvalRequest", progress: "Progress | None") -> "EvalResult":
        """See Task."""
        from scalenet_cli.tasks.image_classification.evaluation.evaluate import evaluate_request

        return evaluate_request(request, progress)

    def bench_batch_size(self, device: str) -> int:
        """See Task."""
        return _BENCH_BATCH[device]

    def make_bench_batch(self, request: "BenchRequest") -> "BenchWork":
        """See Task."""
        from scalenet_cli.tasks.image_classification.bench_batch import make_images

        return make_images(request)

    def open_samples(self, work: "Diagnosis", target: str, *, held: int = 0) -> "DiagnosedModel":
        """See Task."""
        from scalenet_cli.tasks.image_classification.diagnosis_samples import open_images

        return open_images(work, target, held=held)


IMAGE_CLASSIFICATION: Final = ImageClassification()
