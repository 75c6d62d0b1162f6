"""Every timm architecture, from nothing but the names and shapes of its tensors."""

from pathlib import Path
from typing import Final

import pytest
from timm.models import list_models, list_modules

from scalenet_cli.errors import CheckpointError, UnknownArchitecture
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.sources import open_source
from scalenet_cli.families.sources.candidates import Candidate
from scalenet_cli.families.timm_models import build_timm, timm_families
from tests.cli.helpers import blank_timm

pytestmark = pytest.mark.slow

SUPPORTED: Final = {
    name: family.name for family in timm_families() for name in family.checkpoints.names()
}
# Their blocks are built in another way, and the message says which.
OTHERWISE: Final = ("aimv2_", "_xp_", "_18x2_", "pwee_")
# One of each other kind: the smallest name, which is never the largest model.
OTHERS: Final = {
    module: min(
        names, key=lambda name: (any(w in name for w in ("huge", "large", "xl")), len(name))
    )
    for module in list_modules()
    if module not in {m for family in timm_families() for m in family.checkpoints.modules}
    and (names := [n for n in list_models(module=module) if "giga" not in n and "7b" not in n])
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_supported_architecture_is_found_or_named_among_its_twins(
    name: str, tmp_path: Path
) -> None:
    path = blank_timm(tmp_path / "weights.safetensors", name)
    if any(part in name for part in OTHERWISE):
        with pytest.raises(UnknownArchitecture, match="the keys look like those of "):
            open_source(str(path))
        return
    source = open_source(str(path))
    found = source.architecture
    original = Architecture(SUPPORTED[name], name)
    facts = Candidate(original, build_timm(original)).facts()
    if Candidate(found, build_timm(found)).facts() != facts:
        (note,) = [note for note in source.notes if "GUESS" in note]
        assert f"{name} would change" in note
    named = open_source(str(path.rename(tmp_path / f"{name}.safetensors"))).architecture
    assert Candidate(named, build_timm(named)).facts() == facts


@pytest.mark.parametrize("name", OTHERS.values(), ids=OTHERS)
def test_an_architecture_of_another_kind_is_refused_by_name_and_without_nonsense(
    name: str, tmp_path: Path
) -> None:
    path = blank_timm(tmp_path / "weights.safetensors", name)
    with pytest.raises(CheckpointError) as raised:
        open_source(str(path))
    if name.startswith("qwen3_vit"):  # tensor for tensor a ViT, but for its last norm and head
        assert "2 tensors are missing, such as norm.weight" in raised.value.fact
        return
    assert isinstance(raised.value, UnknownArchitecture), raised.value
    assert "supported are timm ViT, DeiT and Swin" in (raised.value.hint or "")
