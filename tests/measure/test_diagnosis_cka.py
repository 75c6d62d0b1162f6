"""Linear CKA against its formula, and what has to leave it as it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalenet_cli.measure.cka import compare_features
from tests.measure.test_diagnosis import cka

SIZES = pytest.mark.parametrize(("rows", "widths"), [(5, (8, 3)), (40, (8, 3)), (8, (8, 8))])


def features(rows: int, widths: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    """Blocks that look at one signal and are not centred."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(rows, 4, generator=generator)
    return [
        signal @ torch.randn(4, width, generator=generator)
        + torch.randn(rows, width, generator=generator)
        + 3.0
        for width in widths
    ]


@SIZES
def test_it_is_the_formula_on_all_samples_at_once(rows: int, widths: tuple[int, ...]) -> None:
    one, other = features(rows, widths), features(rows, widths[::-1], seed=1)
    found = compare_features(one, other)
    for row, x in zip(found.linear, one, strict=True):
        for value, y in zip(row, other, strict=True):
            assert value == pytest.approx(cka(x, y), abs=1e-9)


def unbiased_hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """Song et al. (2012), equation 5, as it stands there."""
    k, m = (one.double().numpy() @ one.double().numpy().T for one in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    n = len(k)
    sums = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return float((np.trace(k @ m) + sums) / (n * (n - 3)))


@SIZES
def test_the_unbiased_one_is_that_of_song(rows: int, widths: tuple[int, ...]) -> None:
    one, other = features(rows, widths), features(rows, widths[::-1], seed=1)
    found = compare_features(one, other)
    for row, x in zip(found.unbiased, one, strict=True):
        for value, y in zip(row, other, strict=True):
            own = unbiased_hsic(x, x) * unbiased_hsic(y, y)
            assert value == pytest.approx(unbiased_hsic(x, y) / own**0.5, abs=1e-9)


@SIZES
def test_a_model_beside_itself_has_ones_on_the_diagonal(rows: int, widths: tuple[int, ...]) -> None:
    own = features(rows, widths)
    for other in (own, [one.clone() for one in own]):
        found = compare_features(own, other)
        for matrix in (found.linear, found.unbiased):
            for at, row in enumerate(matrix):
                assert row[at] == pytest.approx(1, abs=1e-12)
                assert [other_row[at] for other_row in matrix] == pytest.approx(row, abs=1e-12)


def test_what_does_not_vary_is_like_nothing() -> None:
    varying, constant = torch.randn(9, 4), torch.full((9, 4), 0.1) * torch.arange(1, 5)
    found = compare_features([varying, constant], [varying, constant])
    for matrix in (found.linear, found.unbiased):
        assert matrix[0][0] == pytest.approx(1)
        assert np.isnan([matrix[0][1], matrix[1][0], matrix[1][1]]).all()
    assert np.isnan(compare_features([varying[:3]], [varying[:3]]).unbiased[0][0])


def test_independent_features_are_unlike_without_bias() -> None:
    torch.manual_seed(0)
    found = compare_features([torch.randn(64, 512)], [torch.randn(64, 512)])
    assert found.linear[0][0] > 0.8
    assert abs(found.unbiased[0][0]) < 0.1


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(5, 24),
    width=st.integers(1, 12),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-10, 10),
)
def test_rotations_scales_and_shifts_change_nothing(
    seed: int, rows: int, width: int, scale: float, shift: float
) -> None:
    x, y = features(rows, (width, 6), seed)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator).double())[0]
    turned = scale * (x.double() @ rotation) + shift
    before, after = compare_features([x], [y]), compare_features([turned], [y])
    assert after.linear[0][0] == pytest.approx(before.linear[0][0], abs=1e-6)
    assert after.unbiased[0][0] == pytest.approx(before.unbiased[0][0], abs=1e-5)
