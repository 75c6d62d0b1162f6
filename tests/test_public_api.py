"""The names that users may rely on."""

import scalenet_cli


def test_exported_names() -> None:
    assert scalenet_cli.__all__ == [
        "BenchOptions",
        "CompareOptions",
        "DataOptions",
        "DiagnoseOptions",
        "EvalOptions",
        "ExpandReport",
        "ExpansionPlan",
        "FinetuneOptions",
        "GenerateOptions",
        "ImageRecipe",
        "LanguageOptions",
        "LanguageRecipe",
        "ScalenetError",
        "SourceOptions",
        "Work",
        "bench",
        "check_plan",
        "compare",
        "count_params",
        "diagnose",
        "evaluate",
        "evaluate_language",
        "expand_checkpoint",
        "expand_module",
        "finetune",
        "flops",
        "generate",
        "inspect",
        "load",
        "load_plan",
        "load_training_recipe",
        "parse_plan",
        "save",
        "ties",
        "verify",
        "__version__",
    ]
    for name in scalenet_cli.__all__:
        assert getattr(scalenet_cli, name) is not None
