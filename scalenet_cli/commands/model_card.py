"""The model card that a bundle carries."""

from typing import TYPE_CHECKING

from scalenet_cli.bundle.trained import UNCHANGED
from scalenet_cli.families.sources import Source
from scalenet_cli.plan.schema import ExpansionPlan

if TYPE_CHECKING:
    from scalenet_cli.commands.expand_report import ExpandReport


def model_card(source: Source, plan: ExpansionPlan, report: "ExpandReport") -> str:
    """Markdown with the front matter that model hubs read. Same input, same text."""
    counts, flops = report.parameters, report.flops
    rows = "\n".join(f"| {group} | {count:,} |" for group, count in counts.groups.items() if count)
    mapping = plan.mapping if isinstance(plan.mapping, str) else "written-out sources"
    return f"""---
library_name: scalenet-cli
tags: [scalenet, {source.architecture.family}]
---
# {source.architecture.name}, {report.blocks} blocks

Made by scalenet from `{source.reference}`: {report.blocks - report.new_blocks} pretrained blocks
executed as {report.blocks} ({mapping}, weights {plan.shared.weights}, start {plan.start}).
{UNCHANGED}; `plan.yaml` is the plan.

| parameters | |
|---|---|
| stored | {counts.stored:,} |
| executed | {counts.executed:,} |
| trainable under the plan | {counts.trainable:,} |
{rows}

{flops.macs:,} MACs ({flops.flops:,} FLOPs) for one input of {flops.input_size} {flops.unit}.

```python
import scalenet_cli

model = scalenet_cli.load("PATH/TO/THIS/FOLDER")
```

`scalenet verify` checks digests, ties, and that the source is still in here, bit for bit.
"""
