"""Properties of every mapping, and of the way a mapped run is put back into its stage."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalenet_cli.plan.mappings import MAPPINGS
from scalenet_cli.plan.resolve import splice

depths = st.integers(1, 40)
extras = st.integers(0, 90)
every_mapping = pytest.mark.parametrize("name", MAPPINGS)


@every_mapping
@given(depth=depths, extra=extras)
def test_every_source_is_used_and_uses_differ_by_at_most_one(
    name: str, depth: int, extra: int
) -> None:
    sources = MAPPINGS[name](depth, depth + extra)
    uses = Counter(sources)
    assert len(sources) == depth + extra
    assert set(uses) == set(range(depth))
    assert max(uses.values()) - min(uses.values()) <= 1


@given(depth=depths, extra=extras)
def test_interpolate_keeps_copies_next_to_their_source(depth: int, extra: int) -> None:
    sources = MAPPINGS["interpolate"](depth, depth + extra)
    assert list(sources) == sorted(sources)


@given(depth=depths, factor=st.integers(1, 6))
def test_whole_factors_equal_the_papers_formulas(depth: int, factor: int) -> None:
    slots = range(depth * factor)
    assert MAPPINGS["stack"](depth, depth * factor) == tuple(slot % depth for slot in slots)
    assert MAPPINGS["interpolate"](depth, depth * factor) == tuple(s // factor for s in slots)


@every_mapping
@given(data=st.data(), depth=st.integers(1, 20), extra=st.integers(0, 30))
def test_splice_keeps_pretrained_blocks_in_order(
    name: str, data: st.DataObject, depth: int, extra: int
) -> None:
    scope = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=1)))
    mapped = MAPPINGS[name](len(scope), len(scope) + extra)
    order = splice(depth, scope, mapped)
    first_uses = list(dict.fromkeys(order))
    assert first_uses == list(range(depth))
    assert len(order) == depth + extra
    assert Counter(order) == Counter(range(depth)) + Counter(
        {scope[entry]: times - 1 for entry, times in Counter(mapped).items()}
    )
    assert [s for s in order if s in scope] == [scope[entry] for entry in mapped]
