"""``scalenet expand``: a checkpoint and a plan in, a bundle out; bytes are copied, not loaded."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from scalenet_cli import __version__
from scalenet_cli.bundle.manifest import (
    FORMAT,
    FileEntry,
    Manifest,
    SourceEntry,
    digest_tensors,
    stage_entries,
)
from scalenet_cli.bundle.read import is_bundle
from scalenet_cli.bundle.reports import FlopReport, ParameterReport, Report
from scalenet_cli.bundle.staging import check_output, check_space, staged_folder
from scalenet_cli.bundle.tensor_files import (
    BackgroundWriter,
    ByteSource,
    Computed,
    base_files,
    new_files,
    write_file,
)
from scalenet_cli.bundle.write import carry_files, write_manifest, write_text
from scalenet_cli.commands.card import model_card
from scalenet_cli.commands.options import SourceOptions
from scalenet_cli.errors import OptionError
from scalenet_cli.families.sources import Source, open_source
from scalenet_cli.families.sources.tensors import SourceTensor
from scalenet_cli.plan.load import PlanDocument, load_plan

if TYPE_CHECKING:
    from scalenet_cli.commands.opening import Described

# An allowance for headers, manifest and card when the disk is checked.
_MARGIN_BYTES = 8_000_000


class ExpandReport(Report):
    """What was, or would be, written."""

    output: str
    written: bool
    source_parameters: int
    blocks: int
    new_blocks: int
    parameters: ParameterReport
    flops: FlopReport
    source_bytes: int
    bundle_bytes: int
    largest_tensor_bytes: int
    inference_bytes: int
    training_state_bytes: int
    notes: tuple[str, ...]


def expand_checkpoint(
    checkpoint: str,
    plan: str,
    output: str | Path,
    *,
    options: SourceOptions | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> ExpandReport:
    """Writes a bundle, whole or not at all.

    The base's bytes are copied by threads while the surgery is planned on a model without weights.

    Raises:
        ScalenetError: the plan, the checkpoint or the output cannot be used; nothing is written.
    """
    options = options or SourceOptions()
    output = Path(output)
    document = load_plan(plan)
    if not dry_run:
        check_output(output, force=force)
    if is_bundle(Path(checkpoint)):
        raise OptionError(
            "the checkpoint is a bundle already",
            where=checkpoint,
            hint="expand the checkpoint that it was made from, with another plan",
        )
    source = open_source(
        checkpoint,
        arch=options.arch,
        arguments=options.model_kwargs,
        random_seed=options.random_seed,
    )
    if dry_run:
        return _report(*_plan_surgery(source, document, options, checkpoint), source, output, False)
    check_space(output, source.num_bytes + _MARGIN_BYTES)
    with staged_folder(output, force=force) as folder, ExitStack() as stack:
        writer = stack.enter_context(BackgroundWriter(folder, "base", base_files(source)))
        described, parameters, flops = _plan_surgery(source, document, options, checkpoint)
        owned = _owned_tensors(described, source, options.seed)
        check_space(output, sum(tensor.spec.num_bytes for tensor in owned.values()))
        files: dict[str, FileEntry] = {}
        for file in new_files("adapters", owned):
            files[file.name] = write_file(folder, "instances", file)
        files |= carry_files(folder, source.carried)
        files["plan.yaml"] = write_text(folder, "plan.yaml", document.text)
        base = writer.entries()
        report = _report(described, parameters, flops, source, output, True)
        card = model_card(source, document.plan, report)
        files["README.md"] = write_text(folder, "README.md", card)
        manifest = _manifest(described, source, document, options, {**base, **files}, report)
        write_manifest(folder, manifest)
    return report


def _plan_surgery(
    source: Source, document: PlanDocument, options: SourceOptions, where: str
) -> "tuple[Described, ParameterReport, FlopReport]":
    # Imported here, after the copying threads have started: torch takes a second or more.
    from scalenet_cli.commands.opening import build_base, scale
    from scalenet_cli.families import family as find_family
    from scalenet_cli.measure.flops import count_flops
    from scalenet_cli.measure.params import count_parameters

    architecture = source.architecture
    family = find_family(architecture.family)
    base = build_base(architecture, family, source, where)
    described = scale(base, architecture, family, document, source, options.seed)
    parameters = count_parameters(
        described.model, described.layout, described.groups, described.train
    )
    size = family.default_input_size(described.model)
    flops = count_flops(described.model, described.layout, family, size)
    return described, parameters, flops


def _owned_tensors(described: "Described", source: Source, seed: int) -> dict[str, ByteSource]:
    """What belongs to instances: copies are streamed from the source, the rest is computed."""
    from scalenet_cli.families.sources.tensors import spec_of
    from scalenet_cli.surgery.values import Copied, compute_value

    assert described.expansion is not None
    blank = dict(described.model.named_parameters())
    tensors: dict[str, ByteSource] = {}
    for key, value in described.expansion.owned.items():
        if isinstance(value, Copied):
            tensors[key] = source.tensors[value.key]
            continue

        def compute(key: str = key, value: object = value) -> "object":
            return compute_value(
                value,  # type: ignore[arg-type]
                key,
                blank[key],
                seed=seed,
                read=lambda name: source.tensors[name].read(),
            )

        tensors[key] = Computed(spec_of(blank[key], key), compute)  # type: ignore[arg-type]
    return tensors


def _manifest(
    described: "Described",
    source: Source,
    document: PlanDocument,
    options: SourceOptions,
    files: Mapping[str, FileEntry],
    report: ExpandReport,
) -> Manifest:
    assert described.expansion is not None
    base = {
        key: entry
        for file in files.values()
        if file.role == "base"
        for key, entry in file.tensors.items()
    }
    digest = digest_tensors({source.renamed.get(key, key): entry for key, entry in base.items()})
    architecture = source.architecture
    return Manifest(
        format=FORMAT,
        tool=f"scalenet-cli {__version__}",
        source=SourceEntry(
            reference=source.reference,
            kind=source.kind,  # type: ignore[arg-type]
            digest=digest,
            family=architecture.family,
            architecture=architecture.name,
            arguments=dict(architecture.arguments),
            preprocessing=dict(source.preprocessing),
            renamed=dict(source.renamed),
            dropped=source.dropped,
            duplicates=dict(source.duplicates),
        ),
        plan=document.plan,
        seed=options.seed,
        layout=stage_entries(described.layout),
        ties=dict(described.expansion.ties),
        files=dict(sorted(files.items())),
        parameters=report.parameters,
        flops=report.flops,
    )


def _report(
    described: "Described",
    parameters: ParameterReport,
    flops: FlopReport,
    source: Source,
    output: Path,
    written: bool,
) -> ExpandReport:
    assert described.expansion is not None
    model = dict(described.model.named_parameters())
    owned = described.expansion.owned
    own_bytes = sum(model[key].numel() * model[key].element_size() for key in owned)
    trained = sum(
        parameter.numel() * parameter.element_size()
        for key, parameter in model.items()
        if described.groups[key] in described.train
    )
    tensors: list[SourceTensor] = list(source.tensors.values())
    return ExpandReport(
        output=str(output),
        written=written,
        source_parameters=sum(tensor.spec.num_elements for tensor in tensors),
        blocks=described.layout.num_instances,
        new_blocks=described.layout.num_new,
        parameters=parameters,
        flops=flops,
        source_bytes=source.num_bytes,
        bundle_bytes=source.num_bytes + own_bytes,
        largest_tensor_bytes=max(tensor.spec.num_bytes for tensor in tensors),
        inference_bytes=source.num_bytes + own_bytes,
        # Gradient and AdamW's two moments of what is trained.
        training_state_bytes=source.num_bytes + own_bytes + 3 * trained,
        notes=source.notes,
    )
