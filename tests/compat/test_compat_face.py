# SPDX-License-Identifier: MIT
"""crfrnn.compat.pydensecrf as an interface: names, matrices, copies, the old name, worker processes."""

from __future__ import annotations

import copy
import enum
import inspect
import multiprocessing
import pickle
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from compat_pictures import build, energies, photograph
from crfrnn.compat import pydensecrf
from crfrnn.compat.pydensecrf import _engine, eigen, utils
from crfrnn.compat.pydensecrf import densecrf as ours
from crfrnn.compat.pydensecrf.__main__ import main
from threads import threads

ENERGY = np.random.default_rng(0).random((2, 12)).astype(np.float32)


def model(module=ours):
    crf = module.DenseCRF2D(4, 3, 2)
    crf.setUnaryEnergy(ENERGY)
    return crf


def test_every_public_name_of_pydensecrf():
    import pydensecrf.densecrf as theirs
    import pydensecrf.eigen as their_eigen
    import pydensecrf.utils as their_utils

    imported = {"Number", "eigen", "np", "warning"}
    for mine, other in ((ours, theirs), (eigen, their_eigen), (utils, their_utils)):
        names = {n for n in vars(other) if not n.startswith("_")} - imported
        assert names and names <= set(vars(mine))
        for name in names:
            other_value, value = getattr(other, name), getattr(mine, name)
            if isinstance(other_value, enum.IntEnum):
                assert int(value) == int(other_value) and value.name == other_value.name
            elif isinstance(other_value, type):
                methods = {n for n in vars(other_value) if not n.startswith("_")}
                assert methods <= set(dir(value))
            elif inspect.isfunction(other_value):
                assert list(inspect.signature(value).parameters) == list(
                    inspect.signature(other_value).parameters
                )
    assert [list(k) for k in (ours.KernelType, ours.NormalizationType)] == [
        list(k) for k in (theirs.KernelType, theirs.NormalizationType)
    ]


def test_keywords_and_positions_of_the_original():
    """Calls that pydensecrf accepts, by keyword and by position, with integers for constants."""
    import pydensecrf.densecrf as theirs

    image = np.zeros((3, 4, 3), np.uint8)
    for module in (ours, theirs):
        crf = model(module)
        crf.setUnaryEnergy(u=ENERGY)
        crf.addPairwiseGaussian((3, 3), 1, module.FULL_KERNEL, module.NORMALIZE_AFTER)
        crf.addPairwiseGaussian(sxy=np.array([3.0, 2.0]), compat=np.float32(2), kernel=0, normalization=2)
        crf.addPairwiseBilateral(3, 4.5, image, True, module.CONST_KERNEL, module.NO_NORMALIZATION)
        crf.addPairwiseEnergy(np.zeros((2, 12), np.float32), 1, kernel=module.DIAG_KERNEL)
        crf.addPairwiseEnergy(features=np.ones((1, 12), np.float32), compat=-1)
        for count in (2, np.int64(2), 2.7, True):
            assert np.array(crf.inference(count)).shape == (2, 12)


def test_matrix_behaves_as_in_pydensecrf():
    crf = model()
    q = crf.inference(1)
    copied, view = np.array(q), np.asarray(q)
    assert type(copied) is type(view) is np.ndarray
    assert copied.dtype == np.float32 and copied.shape == (2, 12) and copied.flags.f_contiguous
    np.testing.assert_allclose(copied.sum(0), 1, atol=1e-6)
    assert memoryview(q).format == "f" and memoryview(q).shape == (2, 12) and not memoryview(q).readonly
    view[0, 0] = 7  # writes through
    assert np.asarray(q)[0, 0] == 7 and copied[0, 0] != 7
    for plain in (np.argmax(q, axis=0), np.max(q, axis=0), q * 2, np.exp(q), np.reshape(q, (2, 3, 4))):
        assert type(plain) is np.ndarray
    assert isinstance(q.sum(), np.floating)
    assert np.array(q).reshape((2, 3, 4)).transpose(1, 2, 0).shape == (3, 4, 2)
    assert torch.from_numpy(np.array(q)).shape == (2, 12)
    assert np.array(pickle.loads(pickle.dumps(q))).shape == (2, 12)


def test_arguments_are_neither_kept_nor_changed():
    energy, image = ENERGY.copy(), np.random.default_rng(1).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    features, compat = np.random.default_rng(2).random((2, 12)).astype(np.float32), np.array([-2, -3], "f4")
    kept = [a.copy() for a in (energy, image, features, compat)]
    crf = ours.DenseCRF2D(4, 3, 2)
    crf.setUnaryEnergy(energy)
    crf.addPairwiseBilateral(3, 20, image, compat)
    crf.addPairwiseEnergy(features, compat)
    first = np.array(crf.inference(3))
    for array, before in zip((energy, image, features, compat), kept, strict=True):
        np.testing.assert_array_equal(array, before)
        array[...] = 1
    np.testing.assert_array_equal(np.array(crf.inference(3)), first)
    held, _, _ = crf.startInference()
    np.asarray(held)[...] = 0
    np.testing.assert_array_equal(np.array(crf.inference(3)), first)


def test_read_only_arrays_are_accepted():
    """Memory-mapped files and decoders return such arrays; pydensecrf rejects them."""
    image = np.zeros((3, 4, 3), np.uint8)
    energy, features = ENERGY.copy(), np.zeros((2, 12), np.float32)
    for array in (image, energy, features):
        array.setflags(write=False)
    crf = ours.DenseCRF2D(4, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crf.setUnaryEnergy(energy)
        crf.addPairwiseBilateral(3, 3, image, 1)
        crf.addPairwiseEnergy(features, 1)
    assert np.isfinite(np.array(crf.inference(2))).all()


def test_given_marginals_work_and_the_engine_state_is_unchanged():
    crf = model()
    crf.addPairwiseGaussian(2, np.array([[-3, 0], [0, -3]], np.float32))
    q = eigen.matrixXf(np.full((2, 12), 0.5, np.float32))
    _, tmp1, tmp2 = crf.startInference()
    count, grad = torch.get_num_threads(), torch.is_grad_enabled()
    crf.stepInference(q, tmp1, tmp2)
    np.testing.assert_allclose(np.array(q), torch.softmax(torch.from_numpy(-ENERGY), 0).numpy(), atol=1e-6)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (count, grad)
    with torch.autocast("cpu"):
        again = eigen.matrixXf(np.full((2, 12), 0.5, np.float32))
        crf.stepInference(again, tmp1, tmp2)
    np.testing.assert_array_equal(np.array(again), np.array(q))
    torch.set_default_dtype(torch.float64)
    try:
        other = model()
        other.addPairwiseGaussian(2, 3)
        assert np.array(other.inference(3)).dtype == np.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_spatial_kernels_of_one_size_are_shared():
    """Pictures of one size have one spatial kernel; the results equal those of a separate kernel."""
    _engine.forget()
    sizes = [(4, 3), (4, 3), (3, 4), (4, 3)]
    built = [ours.DenseCRF2D(*size, 2) for size in sizes]
    for crf in built[:3]:
        crf.setUnaryEnergy(ENERGY)
        crf.addPairwiseGaussian((3, 2), 2)
    assert built[0]._kernels[0] is built[1]._kernels[0] is not built[2]._kernels[0]
    _engine.forget()
    built[3].setUnaryEnergy(ENERGY)
    built[3].addPairwiseGaussian((3, 2), 2)
    assert built[3]._kernels[0] is not built[0]._kernels[0]
    first, *others = (np.array(crf.inference(4)) for crf in built)
    np.testing.assert_array_equal(others[0], first)
    np.testing.assert_array_equal(others[2], first)
    assert np.abs(others[1] - first).max() > 1e-3


def test_subclass_and_copies():
    """Python subclasses crash the original."""

    class Mine(ours.DenseCRF):
        pass

    crf = Mine(12, 2)
    crf.setUnaryEnergy(ENERGY)
    crf.addPairwiseEnergy(np.zeros((1, 12), np.float32), 1)
    again = copy.deepcopy(crf)
    np.testing.assert_array_equal(np.array(again.inference(2)), np.array(crf.inference(2)))


def test_asymmetric_matrix_warns_where_it_was_given():
    matrix = np.array([[0, 1], [2, 0]], np.float32)
    image = np.zeros((3, 4, 3), np.uint8)
    half = np.array([[0, 1.5], [1.5, 0]], np.float32)
    asked, meant = model(), model()
    for call in (
        lambda crf, m: crf.addPairwiseGaussian(3, m),
        lambda crf, m: crf.addPairwiseBilateral(3, 3, image, m),
        lambda crf, m: crf.addPairwiseEnergy(np.zeros((1, 12), np.float32), m),
    ):
        with pytest.warns(UserWarning, match="compat: an asymmetric matrix") as caught:
            call(asked, matrix)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(meant, half)
    np.testing.assert_array_equal(np.array(asked.inference(3)), np.array(meant.inference(3)))


@pytest.mark.slow
def test_the_old_name():
    """install() supports every form of import, and warns if it is called too late."""
    code = """
import crfrnn.compat.pydensecrf as ours
ours.install(); ours.install()
import pydensecrf, pydensecrf.densecrf as dcrf, pydensecrf.utils
from pydensecrf.densecrf import DenseCRF2D, DIAG_KERNEL
from pydensecrf.utils import unary_from_labels
from pydensecrf import densecrf, eigen
import importlib, pickle
assert dcrf is densecrf is ours.densecrf and pydensecrf.utils is ours.utils and eigen is ours.eigen
assert importlib.import_module("pydensecrf.densecrf").DenseCRF2D is DenseCRF2D
assert pickle.loads(pickle.dumps(DIAG_KERNEL)) is DIAG_KERNEL
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_old_name_too_late(monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("pydensecrf", *(f"pydensecrf.{room}" for room in ("densecrf", "eigen", "utils"))):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        with pytest.warns(
            RuntimeWarning, match=r"pydensecrf.densecrf, .* had been imported before"
        ) as caught:
            pydensecrf.install()
        assert caught[0].filename == __file__
        assert sys.modules["pydensecrf.densecrf"] is ours
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pydensecrf.install()


@pytest.mark.slow
def test_an_unmodified_script(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("LABELS = 3")
    script = tmp_path / "old.py"
    script.write_text(
        "import sys, beside, pydensecrf.densecrf as d\n"
        "print(__name__, sys.argv[1:], d.DenseCRF(2, beside.LABELS).inference(1).shape, d.__name__)"
    )
    call = [sys.executable, "-m", "crfrnn.compat.pydensecrf"]
    done = subprocess.run(
        [*call, str(script), "a", "-b"], capture_output=True, text=True, cwd=tmp_path.parent
    )
    assert done.stdout.split("\n")[0] == ("__main__ ['a', '-b'] (3, 2) crfrnn.compat.pydensecrf.densecrf"), (
        done.stderr
    )
    monkeypatch.setattr(sys, "argv", ["", "no such file"])
    with pytest.raises(SystemExit, match="SCRIPT: expected a Python file, got 'no such file'"):
        main()


def _refine(name):
    crf = build(ours, photograph(name), energies(name), (3, 5), "DIAG_KERNEL", "NORMALIZE_SYMMETRIC")
    return np.array(crf.inference(3))


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_forked_workers_after_use_in_the_parent():
    """The usual process pool of old scripts: a parallel loop in a forked child would hang forever."""
    with threads(2):
        here = [_refine(name) for name in ("coffee", "rocket")]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            there = pool.map_async(_refine, ("coffee", "rocket")).get(timeout=60)
    for mine, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(mine, other)
