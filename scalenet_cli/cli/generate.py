"""``scalenet generate``."""

import sys
from typing import Annotated, Literal

import typer

from scalenet_cli.cli.options import Json, RandomWeights, Seed, Target, source_options
from scalenet_cli.tasks.causal_lm.data.templates import Template


def generate(
    target: Target,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="What to go on from; - reads stdin.")
    ],
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Tokens at most.")
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", metavar="N", help="0 takes the most probable token every time."
        ),
    ] = 0.0,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", metavar="N", help="Choose among tokens that make up this probability."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="N", help="Choose among the K best tokens.")
    ] = None,
    template: Annotated[
        Template,
        typer.Option(
            "--template",
            metavar="auto|chat|alpaca|none",
            help="What the prompt is put into; by default what the model was trained with, or else "
            "the chat template where there is one.",
        ),
    ] = "auto",
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="A system message, for a chat template."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="DIR", help="Its folder; by default the target's own."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where the model runs."),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(
            "--precision",
            metavar="fp32|bf16|fp16",
            help="Convert the weights; by default they stay as stored.",
        ),
    ] = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write text with a language model, from a prompt.

    Only the new text goes to stdout, piece by piece; with --json, the report alone.
    """
    from scalenet_cli.cli import render
    from scalenet_cli.tasks.causal_lm.generation.generate import generate as run
    from scalenet_cli.tasks.causal_lm.generation.options import GenerateOptions
    from scalenet_cli.tasks.causal_lm.generation.report import GenerateReport

    how = GenerateOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        template=template,
        system=system,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
    )
    text = _stdin() if prompt == "-" else prompt
    options = source_options(None, None, random_weights, seed)
    report: GenerateReport = run(
        target, text, how, options=options, listener=None if as_json else _show
    )
    if not as_json:
        typer.echo()
    render.notes(report.notes)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))


def _stdin() -> str:
    """All of stdin, without the line end that a shell puts there.

    Raises:
        OptionError: it is no UTF-8 text.
    """
    from scalenet_cli.errors import OptionError

    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise OptionError("the prompt on stdin is no UTF-8 text") from None


def _show(text: str) -> None:
    """On a terminal without its control characters: a model may write anything.

    What the encoding of stdout does not have is written as an escape.
    """
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"  # text in memory has none
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)
    sys.stdout.flush()
