"""scalenet: pretrained checkpoints made deeper by tied blocks with adapters of their own.

Names are imported on first use, because most of them bring torch along and the command line must
answer ``--help`` at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from scalenet_cli.version import __version__

if TYPE_CHECKING:
    from scalenet_cli.benchmark.bench import bench as bench
    from scalenet_cli.benchmark.options import BenchOptions as BenchOptions
    from scalenet_cli.commands.count import count_params as count_params
    from scalenet_cli.commands.count import flops as flops
    from scalenet_cli.commands.expand import expand_checkpoint as expand_checkpoint
    from scalenet_cli.commands.expand_report import ExpandReport as ExpandReport
    from scalenet_cli.commands.finetune import finetune as finetune
    from scalenet_cli.commands.inspection import check_plan as check_plan
    from scalenet_cli.commands.inspection import inspect as inspect
    from scalenet_cli.commands.verify import verify as verify
    from scalenet_cli.diagnosis.diagnose import diagnose as diagnose
    from scalenet_cli.errors import ScalenetError as ScalenetError
    from scalenet_cli.models.expand_module import expand_module as expand_module
    from scalenet_cli.models.load import load as load
    from scalenet_cli.models.save import save as save
    from scalenet_cli.models.source_options import SourceOptions as SourceOptions
    from scalenet_cli.plan.load import load_plan as load_plan
    from scalenet_cli.plan.load import parse_plan as parse_plan
    from scalenet_cli.plan.schema import ExpansionPlan as ExpansionPlan
    from scalenet_cli.study.compare import CompareOptions as CompareOptions
    from scalenet_cli.study.compare import compare as compare
    from scalenet_cli.surgery.ties import ties as ties
    from scalenet_cli.tasks.causal_lm.evaluation.evaluate import (
        evaluate_language as evaluate_language,
    )
    from scalenet_cli.tasks.causal_lm.evaluation.options import LanguageOptions as LanguageOptions
    from scalenet_cli.tasks.causal_lm.generation.generate import generate as generate
    from scalenet_cli.tasks.causal_lm.generation.options import GenerateOptions as GenerateOptions
    from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe as LanguageRecipe
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import evaluate as evaluate
    from scalenet_cli.tasks.image_classification.evaluation.options import (
        EvalOptions as EvalOptions,
    )
    from scalenet_cli.tasks.image_classification.recipe import ImageRecipe as ImageRecipe
    from scalenet_cli.tasks.recipes import load_training_recipe as load_training_recipe
    from scalenet_cli.tasks.requests import DiagnoseOptions as DiagnoseOptions
    from scalenet_cli.tasks.requests import FinetuneOptions as FinetuneOptions
    from scalenet_cli.training.data import DataOptions as DataOptions
    from scalenet_cli.training.run_training import Work as Work

_EXPORTS: Final = {
    "BenchOptions": "benchmark.options",
    "CompareOptions": "study.compare",
    "DataOptions": "training.data",
    "DiagnoseOptions": "tasks.requests",
    "EvalOptions": "tasks.image_classification.evaluation.options",
    "ExpandReport": "commands.expand_report",
    "ExpansionPlan": "plan.schema",
    "FinetuneOptions": "tasks.requests",
    "GenerateOptions": "tasks.causal_lm.generation.options",
    "ImageRecipe": "tasks.image_classification.recipe",
    "LanguageOptions": "tasks.causal_lm.evaluation.options",
    "LanguageRecipe": "tasks.causal_lm.recipe",
    "ScalenetError": "errors",
    "SourceOptions": "models.source_options",
    "Work": "training.run_training",
    "bench": "benchmark.bench",
    "check_plan": "commands.inspection",
    "compare": "study.compare",
    "count_params": "commands.count",
    "diagnose": "diagnosis.diagnose",
    "evaluate": "tasks.image_classification.evaluation.evaluate",
    "evaluate_language": "tasks.causal_lm.evaluation.evaluate",
    "expand_checkpoint": "commands.expand",
    "expand_module": "models.expand_module",
    "finetune": "commands.finetune",
    "flops": "commands.count",
    "generate": "tasks.causal_lm.generation.generate",
    "inspect": "commands.inspection",
    "load": "models.load",
    "load_plan": "plan.load",
    "load_training_recipe": "tasks.recipes",
    "parse_plan": "plan.load",
    "save": "models.save",
    "ties": "surgery.ties",
    "verify": "commands.verify",
}
__all__ = [*sorted(_EXPORTS), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
