"""Products on one core are those of numpy and of thinc."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch
from spacy.language import Language
from spacy.util import fix_random_seed
from thinc.api import Linear, Maxout, Model, NumpyOps, chain, glorot_uniform_init

from spacy_mtl.encoder.runtime.cpu.ops import SINGLE_THREAD, dot, matmul, norm, use_single_thread


def normal(*shape: int, dtype: Any = "f") -> Any:
    return numpy.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Torch has as many afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 7, 3), (0, 7, 3), (5, 0, 3), (200, 64, 48)])
def test_products_are_numpys(shape: tuple[int, int, int], dtype: str) -> None:
    i, k, j = shape
    a, b = normal(i, k, dtype=dtype), normal(k, j, dtype=dtype)
    found = matmul(a, b)
    assert found.dtype == dtype and found.flags.writeable
    numpy.testing.assert_allclose(found, a @ b, rtol=0, atol=1e-4)
    numpy.testing.assert_allclose(matmul(b.T, a.T), found.T, rtol=0, atol=1e-4)
    assert dot(a, 2 * a) == pytest.approx(2 * (a * a).sum(), rel=1e-5)
    assert norm(a.T) == pytest.approx(numpy.linalg.norm(a), rel=1e-5)


def test_an_error_leaves_the_threads_alone() -> None:
    with pytest.raises(RuntimeError):
        matmul(normal(2, 3), normal(2, 3))


@pytest.mark.parametrize("trans1", [False, True])
@pytest.mark.parametrize("trans2", [False, True])
def test_gemm_is_thincs(trans1: bool, trans2: bool) -> None:
    x, y = normal(4, 4), normal(4, 4)
    expected = NumpyOps().gemm(x, y, trans1=trans1, trans2=trans2)
    found = SINGLE_THREAD.gemm(x, y, trans1=trans1, trans2=trans2)
    numpy.testing.assert_allclose(found, expected, atol=1e-5)
    out = numpy.empty_like(found)
    assert SINGLE_THREAD.gemm(x, y, out=out, trans1=trans1, trans2=trans2) is out
    numpy.testing.assert_array_equal(out, found)


def test_rows_of_a_matrix_are_not_copied() -> None:
    whole = normal(9, 4)
    for bounds in ([0, 2, 2, 9], [3, 4, 8], [5, 6]):
        parts = [whole[a:b] for a, b in pairwise(bounds)]
        found = SINGLE_THREAD.flatten(parts)
        assert found.base is whole
        numpy.testing.assert_array_equal(found, whole[bounds[0] : bounds[-1]])


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: [x[:2], x[3:]],  # a gap
        lambda x: [x[2:], x[:2]],  # another order
        lambda x: [x[:2], x[2:].copy()],
        lambda x: [x[:3, :2], x[3:, :2]],
        lambda x: [x[:4:2], x[4::2]],
        lambda x: [x[::-1][:2], x[::-1][2:]],
        lambda x: [x.view("int32")[:2], x[2:]],
        lambda x: [x.copy(), x],
        lambda x: [x[5:5]],
        lambda x: [],
    ],
)
def test_what_does_not_lie_together_is_copied(cut: Callable[[Any], list[Any]]) -> None:
    parts = cut(normal(9, 4))
    found, expected = SINGLE_THREAD.flatten(parts), NumpyOps().flatten(parts)
    numpy.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype and not any(
        found.base is x.base for x in parts if x.base is not None
    )
    padded = SINGLE_THREAD.flatten(parts, pad=1)
    numpy.testing.assert_array_equal(padded, NumpyOps().flatten(parts, pad=1))


@pytest.mark.parametrize("n", [0, 511, 512, 1300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("trans2", [False, True])
def test_many_rows(n: int, dtype: str, trans2: bool) -> None:
    x, y = normal(n, 30, dtype=dtype), normal(30, 7, dtype=dtype)
    found = SINGLE_THREAD.gemm(x, y.T.copy() if trans2 else y, trans2=trans2)
    assert found.dtype == dtype and found.flags.writeable
    numpy.testing.assert_allclose(found, x @ y, rtol=0, atol=1e-4)


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_share_that_is_dropped(drop: float) -> None:
    fix_random_seed(0)
    mask = SINGLE_THREAD.get_dropout_mask((500, 400), drop)
    assert mask.dtype == "float32" and set(numpy.unique(mask)) == {0, numpy.float32(1 / (1 - drop))}
    sigma = (drop * (1 - drop) / mask.size) ** 0.5
    assert abs((mask == 0).mean() - drop) < 4 * sigma + 2**-17
    again = SINGLE_THREAD.get_dropout_mask((500, 400), drop)
    fix_random_seed(0)
    same = SINGLE_THREAD.get_dropout_mask((500, 400), drop)
    assert numpy.array_equal(mask, same) and not numpy.array_equal(mask, again)


@pytest.mark.parametrize("drop,value", [(None, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_all_or_nothing_is_dropped(drop: float | None, value: float) -> None:
    assert numpy.unique(SINGLE_THREAD.get_dropout_mask((3, 4), drop)).tolist() == [value]
    assert SINGLE_THREAD.get_dropout_mask((0, 4), 0.5).shape == (0, 4)


def test_layers_are_thincs() -> None:
    """Weights too, so that pipelines which were saved with either can be loaded."""

    def build() -> Model:
        return chain(Maxout(6, 7, nP=2), Linear(3, 6, init_W=glorot_uniform_init))

    plain, ours = build().initialize(), build().initialize()
    use_single_thread(ours)
    assert {node.ops for node in ours.walk()} == {SINGLE_THREAD}
    ours.from_bytes(plain.to_bytes())
    x, d_y = normal(24, 7), normal(24, 3)
    (y, backprop), (expected, backprop_plain) = (model(x, is_train=True) for model in (ours, plain))
    numpy.testing.assert_allclose(y, expected, atol=1e-5)
    numpy.testing.assert_allclose(backprop(d_y), backprop_plain(d_y), atol=1e-5)
    for mine, theirs in zip(ours.walk(), plain.walk(), strict=True):
        for name in theirs.grad_names:
            numpy.testing.assert_allclose(mine.get_grad(name), theirs.get_grad(name), atol=1e-4)


def test_heads_compute_so(make_nlp: Any) -> None:
    nlp: Language = make_nlp("tagger", "ner", "textcat")
    for name in ("tagger", "ner", "textcat"):
        pipe: Any = nlp.get_pipe(name)
        assert {type(node.ops) for node in pipe.model.walk()} == {type(SINGLE_THREAD)}


def test_other_ops_are_left_alone() -> None:
    class OtherOps(NumpyOps):
        """As for another kind of machine."""

    model = Linear(2, 3)
    model.ops = OtherOps()
    use_single_thread(model)
    assert type(model.ops) is OtherOps
