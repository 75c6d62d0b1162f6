"""Causal language modelling as an entry of TASKS. What needs torch is imported where it is used."""

from typing import TYPE_CHECKING, Any, Final, final

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks.causal_lm import NAME
from scalenet_cli.tasks.causal_lm.metrics import METRICS
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe

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

# By the kind of device; a sequence is much more work than an image.
_BENCH_BATCH: Final = {"cpu": 1, "mps": 2, "cuda": 8}


@final
class CausalLM:
    """See tasks.base.Task."""

    name = NAME
    metrics = METRICS
    recipe = LanguageRecipe
    sample_unit = "sequences"
    threshold_examples = (
        "for example perplexity=30 (also loss and bits_per_byte; at most) or acc=0.6 (also "
        "acc_norm; a share, at least)"
    )

    def refuse_data(self, data: str | None, dataset: str, target: str) -> None:
        """See Task."""
        if data is None:
            raise OptionError("--data is missing")

    def prepare_run(self, request: "Request", recipe: Any) -> "Parts":
        """See Task."""
        from scalenet_cli.tasks.causal_lm.prepare_run import prepare_language

        return prepare_language(request, recipe)

    def open_data(self, request: "DataRequest") -> "OpenedData":
        """See Task."""
        from scalenet_cli.tasks.causal_lm.study_data import StudyTexts

        return StudyTexts(request)

    def evaluate(self, request: "EvalRequest", progress: "Progress | None") -> "EvalResult":
        """See Task."""
        from scalenet_cli.tasks.causal_lm.evaluation.evaluate import evaluate_request

        return evaluate_request(request, progress)

    def bench_batch_size(self, device: str) -> int:
        """See Task."""
        return _BENCH_BATCH[device]

    def make_bench_batch(self, request: "BenchRequest") -> "BenchWork":
        """See Task."""
        from scalenet_cli.tasks.causal_lm.bench_batch import make_tokens

        return make_tokens(request)

    def open_samples(self, work: "Diagnosis", target: str, *, held: int = 0) -> "DiagnosedModel":
        """See Task."""
        from scalenet_cli.tasks.causal_lm.diagnosis_samples import open_texts

        return open_texts(work, target, held=held)


CAUSAL_LM: Final = CausalLM()
