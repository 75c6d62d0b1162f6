"""The names that users may rely on."""

import scalenet_cli


def test_exported_names() -> None:
    assert scalenet_cli.__all__ == [
        "ExpandReport",
        "ExpansionPlan",
        "ScalenetError",
        "SourceOptions",
        "check_plan",
        "count_params",
        "expand_checkpoint",
        "expand_module",
        "flops",
        "inspect",
        "load",
        "load_plan",
        "parse_plan",
        "verify",
        "__version__",
    ]
    for name in scalenet_cli.__all__:
        assert getattr(scalenet_cli, name) is not None
