# SPDX-License-Identifier: MIT
"""Exported programs against the module itself, at other sizes than the example's; TorchScript is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crfrnn import CRFRNN, Lattice, Segmenter, mean_field
from crfrnn.crf.onnx import reference_operator, run_node
from crfrnn.crf.onnx_node import PARAMETERS, SETTINGS

if not hasattr(torch.export, "Dim") or not hasattr(torch.export.Dim, "DYNAMIC"):
    pytest.skip("this torch has no Dim.DYNAMIC", allow_module_level=True)
FREE = torch.export.Dim.DYNAMIC


def pair(size: tuple[int, int], batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, *size, dtype=dtype), torch.rand(batch, 3, *size, dtype=dtype) * 255


def exported(module: nn.Module, inputs: tuple[Tensor, ...], free: dict[str, Any]) -> nn.Module:
    """Save and load, as in another process."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=free), file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [({}, torch.float32), ({"bilateral_method": "exact"}, torch.float64)],
    ids=["one operator", "float64 and exact"],
)
def test_height_width_and_batch_stay_free(settings: dict[str, Any], dtype: torch.dtype) -> None:
    crf = CRFRNN(3, **settings).eval()
    axes = {0: FREE, 2: FREE, 3: FREE}
    program = exported(crf, pair((12, 14), dtype=dtype), {"unary": axes, "image": axes})
    for size, batch in (((12, 14), 2), ((31, 17), 1), ((8, 50), 3)):
        inputs = pair(size, batch, dtype)
        torch.testing.assert_close(program(*inputs), crf(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_mask_and_clamp_are_inputs_too() -> None:
    crf = CRFRNN(3).eval()

    def more(size: tuple[int, int]) -> tuple[Tensor, ...]:
        return *pair(size), torch.rand(2, *size) > 0.2, torch.randint(-1, 3, (2, *size))

    wide, flat = {2: FREE, 3: FREE}, {1: FREE, 2: FREE}
    free = {"unary": wide, "image": wide, "mask": flat, "clamp": flat}
    program, inputs = exported(crf, more((12, 14)), free), more((31, 17))
    torch.testing.assert_close(program(*inputs), crf(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_network_followed_by_the_layer() -> None:
    segmenter = Segmenter(nn.Conv2d(3, 4, 3, padding=1), CRFRNN(4)).eval()

    def picture(*size: int) -> tuple[Tensor]:
        return (torch.randint(256, (1, 3, *size), dtype=torch.uint8),)

    program = exported(segmenter, picture(20, 24), {"picture": {2: FREE, 3: FREE}})
    assert program(*picture(33, 17)).shape == (1, 4, 33, 17)
    inputs = picture(41, 30)
    torch.testing.assert_close(program(*inputs), segmenter(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_whole_inference_is_one_operator_of_the_program(dynamic: bool) -> None:
    """Also under torch.compile, where it is what is fast."""
    seen: list[str] = []

    def look(program: Any, _: Any) -> Any:
        seen.extend(str(node.target) for node in program.graph.nodes)
        return program

    torch.compiler.reset()
    compiled = torch.compile(CRFRNN(3).eval(), backend=look, fullgraph=True, dynamic=dynamic)
    with torch.no_grad():
        compiled(*pair((12, 14)))
    assert [name for name in seen if name.startswith("crfrnn.mean_field")] == ["crfrnn.mean_field"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"tolerance": 1e-3}, "crf.tolerance = None"),
        ({"gradient": "implicit"}, "crf.gradient = 'unrolled'"),
        ({"exclude_self": True}, "crf.exclude_self = False"),
    ],
)
def test_what_depends_on_values_is_refused_by_name(settings: dict[str, Any], remedy: str) -> None:
    crf = CRFRNN(3, **settings).eval()
    with pytest.raises(NotImplementedError, match=f"torch.export.*{remedy}"):
        torch.export.export(crf, pair((6, 7)))
    exec(remedy, {"crf": crf})
    torch.export.export(crf, pair((6, 7)))


def test_torchscript_is_refused_and_the_remedy_works() -> None:
    crf, inputs = CRFRNN(3).eval(), pair((6, 7))
    for module in (crf, Segmenter(nn.Conv2d(3, 3, 1), crf)):
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.script.*torch\.export\.export"):
            torch.jit.script(module)
    features = torch.rand(1, 42, 2)
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace"):
        torch.jit.trace(crf, inputs)
    with pytest.raises(NotImplementedError, match=r"Lattice\.build.*torch\.jit\.trace"):
        torch.jit.trace(lambda x: Lattice.build(x).filter(x), (features,))
    with pytest.raises(NotImplementedError, match=r"mean_field.*torch\.jit\.trace"):
        torch.jit.trace(lambda x: mean_field(x, (), (), -torch.eye(3)), (inputs[0],))


def node_inputs(crf: CRFRNN, inputs: tuple[Tensor, ...]) -> list[np.ndarray | None]:
    parameters = [getattr(crf, name) for name in PARAMETERS]
    return [None if x is None else x.detach().numpy() for x in (*inputs[:2], *parameters, *inputs[2:])]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 2.0, "label_weights": "matrix", "theta_alpha": [9.0, 7.0]}]
)
def test_the_node_of_onnx_is_the_layer(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph has one node in place of the layer; run_node computes the same as the layer."""
    crf, inputs = CRFRNN(3, eval_iterations=3, **settings).eval(), pair((9, 8))
    attributes = {name: getattr(crf, name) for name in SETTINGS} | {"num_labels": 3, "iterations": 3}
    attributes["precision"] = "auto"  # as in earlier files
    attributes["quality"] = crf.quality.encode()  # as the package onnx returns strings
    assert (run_node(node_inputs(crf, inputs), attributes) == crf(*inputs).detach().numpy()).all()
    if not hasattr(getattr(torch.onnx, "ops", None), "symbolic"):
        pytest.skip("this torch has no nodes of one's own")
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    axes = {2: FREE, 3: FREE}
    program = torch.export.export(crf, inputs, dynamic_shapes={"unary": axes, "image": axes})
    nodes = [node for node in program.graph.nodes if "symbolic" in str(node.target)]
    assert len(nodes) == 1 and "CRFRNN" in nodes[0].args and nodes[0].kwargs["domain"] == "crfrnn"


def test_onnx_files_at_other_sizes(recwarn: pytest.WarningsRecorder) -> None:
    """Against onnx's own evaluator; needs the packages onnx and onnxscript."""
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    crf, axes = CRFRNN(3).eval(), {2: FREE, 3: FREE}
    program = torch.onnx.export(
        crf, pair((9, 8)), dynamo=True, dynamic_shapes={"unary": axes, "image": axes}, verbose=False
    )
    assert program is not None
    evaluator = reference.ReferenceEvaluator(program.model_proto, new_ops=[reference_operator()])
    inputs = pair((14, 11))
    found = evaluator.run(None, {"unary": inputs[0].numpy(), "image": inputs[1].numpy()})[0]
    assert np.allclose(found, crf(*inputs).detach().numpy(), atol=1e-5)
