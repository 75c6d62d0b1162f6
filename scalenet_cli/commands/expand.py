"""``scalenet expand``: a checkpoint and a plan in, a bundle out; bytes are copied, not loaded."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scalenet_cli.bundle.background import background_writer
from scalenet_cli.bundle.manifest import (
    FileEntry,
    Manifest,
    SourceEntry,
    digest_tensors,
    needed_format,
    stage_entries,
)
from scalenet_cli.bundle.read import is_bundle
from scalenet_cli.bundle.staging import check_output, check_space, staged_bundle
from scalenet_cli.bundle.tensor_files import base_files, new_files, write_file
from scalenet_cli.bundle.tensor_scan import describe_non_finite, non_finite_tensors
from scalenet_cli.bundle.write import carry_files, write_manifest, write_text
from scalenet_cli.commands.expand_report import ExpandReport
from scalenet_cli.commands.model_card import model_card
from scalenet_cli.errors import OptionError, OutputExists, SourceNotFinite
from scalenet_cli.families.sources import Source
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.output_parts import require_outside_run
from scalenet_cli.files.stop_requests import requests_wait
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import Target, open_checkpoint
from scalenet_cli.plan.load import PlanDocument, load_plan
from scalenet_cli.version import TOOL

if TYPE_CHECKING:
    from scalenet_cli.models.plan_surgery import PlannedSurgery

# An allowance for headers, manifest and card when the disk is checked.
_MARGIN_BYTES = 8_000_000


def expand_checkpoint(
    checkpoint: str | Path,
    plan: str | Path | PlanDocument,
    output: str | Path,
    *,
    options: SourceOptions | None = None,
    force: bool = False,
    dry_run: bool = False,
    strict: bool = False,
) -> ExpandReport:
    """Writes a bundle, whole or not at all.

    The base's bytes are copied in the background, while the surgery is planned on a model without
    weights. NaN and infinite values are counted on the way and reported; ``strict`` refuses them.

    Raises:
        ScalenetError: the plan, the checkpoint or the output cannot be used; nothing is written.
    """
    options = options or SourceOptions()
    checkpoint, output = str(checkpoint), Path(output)
    document = load_plan(plan)
    if strict and dry_run:
        raise OptionError("--strict looks at values, and --dry-run reads none: leave one out")
    if not dry_run:
        check_output(output, force=force)
        _keep_checkpoint(Path(checkpoint), output)
        require_outside_run(output)
    _refuse_bundle(checkpoint)
    target = open_checkpoint(checkpoint, options, weights=not dry_run)
    if dry_run:
        from scalenet_cli.models.plan_surgery import plan_surgery

        return _report(plan_surgery(target, document), target, output, written=False)
    check_space(output, _source(target).num_bytes + _MARGIN_BYTES)
    with sole_writer(output), staged_bundle(output, force=force) as folder:
        report = _write(folder, target, document, output)
        if strict:
            _require_finite(report, checkpoint)
        return report


def _source(target: Target) -> Source:
    assert target.source is not None
    return target.source


def _require_finite(report: ExpandReport, checkpoint: str) -> None:
    if report.non_finite:
        raise SourceNotFinite(
            describe_non_finite(report.non_finite),
            where=checkpoint,
            hint="get the checkpoint again, or an earlier one of its training; or leave out "
            "--strict",
        )


def _refuse_bundle(checkpoint: str) -> None:
    if is_bundle(Path(checkpoint)):
        raise OptionError(
            "the checkpoint is a bundle already",
            where=checkpoint,
            hint="expand the checkpoint that it was made from, with another plan",
        )


def _keep_checkpoint(checkpoint: Path, output: Path) -> None:
    """Replacing the output must not remove what is read.

    Raises:
        OutputExists: the checkpoint lies inside the output.
    """
    if output.exists() and output.resolve() in (
        checkpoint.resolve(),
        *checkpoint.resolve().parents,
    ):
        raise OutputExists(
            "the checkpoint lies inside the output, which would be replaced",
            where=str(output),
            hint="choose another -o",
        )


def _write(folder: Path, target: Target, document: PlanDocument, output: Path) -> ExpandReport:
    """Fills the folder; the manifest comes last."""
    source, seed = _source(target), target.options.seed
    with background_writer(folder, "base", base_files(source)) as writer, _no_collections():
        # Imported only now that the base is being copied: torch takes a second or more. numpy comes
        # first, because torch goes on without it when importing it fails.
        with requests_wait():
            import numpy  # noqa: F401

            from scalenet_cli.models.plan_surgery import owned_tensors, plan_surgery

        planned = plan_surgery(target, document)
        report = _report(planned, target, output, written=True)
        check_space(output, report.bundle_bytes - report.source_bytes)
        files: dict[str, FileEntry] = {}
        owned = owned_tensors(planned, source, seed)
        for file in new_files("adapters", owned) if owned else ():
            files[file.name] = write_file(folder, "instances", file)
        files |= carry_files(folder, source.carried)
        files["plan.yaml"] = write_text(folder, "plan.yaml", document.text)
        card = model_card(source, document.plan, report)
        files["README.md"] = write_text(folder, "README.md", card)
        files |= writer.entries()
    manifest = Manifest(
        format=needed_format(files),
        tool=TOOL,
        source=_source_entry(source, files),
        plan=document.plan,
        seed=seed,
        layout=stage_entries(planned.described.layout),
        ties=dict(planned.expansion.ties),
        files=dict(sorted(files.items())),
        parameters=planned.parameters,
        flops=planned.flops,
    )
    write_manifest(folder, manifest)
    found = non_finite_tensors(manifest.files)
    notes = (*report.notes, describe_non_finite(found)) if found else report.notes
    return report.model_copy(update={"non_finite": found, "notes": notes})


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keeps Python from looking for garbage while torch, the model library and the model are made.

    All that is made there stays, and going through it takes a fifth of the time of the imports.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _source_entry(source: Source, files: Mapping[str, FileEntry]) -> SourceEntry:
    base = {
        source.renamed.get(key, key): entry
        for file in files.values()
        if file.role == "base"
        for key, entry in file.tensors.items()
    }
    architecture = source.architecture
    labels = {"label_names": list(source.label_names)} if source.label_names else {}
    return SourceEntry(
        reference=source.reference,
        kind=source.kind,
        digest=digest_tensors(base),
        family=architecture.family,
        architecture=architecture.name,
        arguments=dict(architecture.arguments),
        preprocessing={**source.preprocessing, **labels},
        renamed=dict(source.renamed),
        dropped=source.dropped,
        duplicates=dict(source.duplicates),
    )


def _report(
    planned: "PlannedSurgery", target: Target, output: Path, *, written: bool
) -> ExpandReport:
    base = planned.base.values()
    source_bytes = sum(spec.num_bytes for spec in base)
    bundle_bytes = source_bytes + sum(spec.num_bytes for spec in planned.owned.values())
    return ExpandReport(
        output=str(output),
        written=written,
        source_parameters=sum(spec.num_elements for spec in base),
        blocks=planned.described.layout.num_instances,
        new_blocks=planned.described.layout.num_new,
        parameters=planned.parameters,
        flops=planned.flops,
        source_bytes=source_bytes,
        bundle_bytes=bundle_bytes,
        largest_tensor_bytes=max(spec.num_bytes for spec in base),
        # The weights, and a gradient and AdamW's two moments of what is trained.
        training_state_bytes=bundle_bytes + 3 * planned.trained_bytes,
        non_finite=(),
        notes=(*target.notes, *planned.notes),
    )
