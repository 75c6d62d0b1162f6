"""The schema of plans for editors, as pydantic writes it."""

from scalenet_cli.plan.schema import ADAPTER_PLANS, ExpansionPlan


def test_the_json_schema_has_the_keys_of_every_kind_of_adapter() -> None:
    schema = ExpansionPlan.model_json_schema()
    shown = {one["$ref"].rpartition("/")[2] for one in schema["properties"]["adapter"]["anyOf"]}
    assert shown == {plan.__name__ for plan in ADAPTER_PLANS.values()}
    assert {"dim", "activation"} <= schema["$defs"]["ParallelPlan"]["properties"].keys()
