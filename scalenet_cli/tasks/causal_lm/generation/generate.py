"""``scalenet generate``."""

from pathlib import Path

from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.tasks.causal_lm.generation.options import GenerateOptions, Listener
from scalenet_cli.tasks.causal_lm.generation.report import GenerateReport


def generate(
    target: str | Path,
    prompt: str,
    how: GenerateOptions | None = None,
    *,
    options: SourceOptions | None = None,
    listener: Listener | None = None,
) -> GenerateReport:
    """What the model of a bundle, a run or a transformers checkpoint writes after a prompt.

    Raises:
        ScalenetError: the target or an option cannot be used; or the prompt is empty, or longer
            than the model's context.
    """
    from scalenet_cli.tasks.causal_lm.generation.session import run_generation

    return run_generation(
        str(target),
        prompt,
        how=how or GenerateOptions(),
        options=options or SourceOptions(),
        listener=listener,
    )
