# SPDX-License-Identifier: MIT
"""The dense CRF as a recurrent layer: `CRFRNN` holds the parameters and runs `mean_field`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn.crf import binary, onnx_node, unit, unusable, validate
from crfrnn.crf.iteration import ACTIVATIONS
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.crf.mean_field import GRADIENTS, solve
from crfrnn.crf.presets import Preset, preset_named
from crfrnn.crf.problem import IN_PLAY, Problem
from crfrnn.lattice.quality import QUALITIES
from crfrnn.lattice.validate import check_choice, exporting, refuse_torchscript

Bandwidth = float | Sequence[float] | Tensor


class CRFRNN(nn.Module):
    """Dense CRF inference with a spatial and a bilateral kernel; every parameter is learnable.

    ``x ← U - μ (W_s S + W_b B)``, ``Q = softmax(x)``, S and B the filtered Q: S with
    ``exp(-|p_i - p_j|² / 2θ_γ²)``, B with ``exp(-|p_i - p_j|² / 2θ_α² - |I_i - I_j|² / 2θ_β²)``.

    ``num_labels=1`` is for a network with a sigmoid: the input is one logit z, interpreted as the two labels
    {0: background, 1: foreground} with U = [0, z], and the output is one logit x_1 - x_0. The parameters are
    those of two labels. For overlapping labels with one sigmoid each, use
    ``CRFRNN(L, activation="sigmoid")``: L such problems over one lattice, see `mean_field`.

    Args:
        num_labels: L ≥ 1; 1 is one logit per pixel.
        theta_alpha, theta_gamma: bandwidths in pixels, a number or one per axis in the order x, y, (z).
        theta_beta: bandwidth in colour steps of 0..255, a number or one per channel.
        spatial_weight, bilateral_weight: initial value of the kernel weights of every label.
        preset: a name in `crfrnn.crf.presets.PRESETS`, or a `Preset`: bandwidths, weights, iterations and
            normalisation; "crfasrnn" is the released CRF-RNN model's, None the package's defaults.
            Explicit arguments take precedence.
        iterations, eval_iterations: T in training (None: the preset's, 5 by default) and in evaluation
            (None: the same).
        label_weights: "vector" keeps one weight per label and kernel, "matrix" an L×L matrix per kernel.
        spatial_method: "separable", "lattice" or "exact"; None: "separable", except that quality="classic"
            with a pydensecrf preset uses the lattice, to reproduce pydensecrf's numbers.
        bilateral_method: "lattice" or "exact".
        quality: "classic", "default", "high" or "finest", for the lattice.
        normalization: "none", "before", "after" or "symmetric"; None: the preset's, "after" by default.
        activation, damping, tolerance, gradient: as in `mean_field`.
        guide_components: k: the bilateral kernel compares each picture's k principal components instead of
            its channels, as in `GaussianKernel.bilateral`; for guides with seven or more channels, which make
            the lattice sparse. 3 to 5 keep most of the information of many bands.
        exclude_self: sum over j ≠ i exactly, as in the paper; implementations usually keep j = i.
        in_play: δ of `mean_field`. None: 0.005 in evaluation under `torch.no_grad()` on a CPU, which changes
            marginals by at most 1e-3 and is several times as fast with many labels; otherwise 0.
        temperature: if given, the unary is divided by it, and it is learnable as `log_temperature`.

    Attributes:
        spatial_weights, bilateral_weights: [L] or [L, L]; for one logit [2] or [2, 2].
        compatibility: [L, L], initially -I (the paper's Fig. 5); for one logit [2, 2].
        log_theta_alpha, log_theta_beta, log_theta_gamma: natural logarithms of the bandwidths.
        log_temperature: only with `temperature`.

    Source: Zheng et al., *Conditional Random Fields as Recurrent Neural Networks*, ICCV 2015,
    doi:10.1109/ICCV.2015.179, Algorithm 1 and section 5.

    >>> import torch
    >>> from crfrnn import CRFRNN
    >>> crf = CRFRNN(3, eval_iterations=10)
    >>> unary, image = torch.randn(2, 3, 6, 8), torch.randint(256, (2, 3, 6, 8), dtype=torch.uint8)
    >>> crf(unary, image).shape
    torch.Size([2, 3, 6, 8])
    """

    def __init__(
        self,
        num_labels: int,
        theta_alpha: Bandwidth | None = None,
        theta_beta: Bandwidth | None = None,
        theta_gamma: Bandwidth | None = None,
        spatial_weight: float | None = None,
        bilateral_weight: float | None = None,
        preset: str | Preset | None = None,
        iterations: int | None = None,
        eval_iterations: int | None = None,
        label_weights: str = "vector",
        spatial_method: str | None = None,
        bilateral_method: str = "lattice",
        quality: str = "default",
        normalization: str | None = None,
        *,
        activation: str = "softmax",
        damping: float = 1.0,
        tolerance: float | None = None,
        gradient: str = "unrolled",
        exclude_self: bool = False,
        temperature: float | None = None,
        guide_components: int | None = None,
        in_play: float | None = None,
    ) -> None:
        super().__init__()
        chosen = preset_named(preset).but(
            theta_alpha=theta_alpha, theta_beta=theta_beta, theta_gamma=theta_gamma,
            spatial_weight=spatial_weight, bilateral_weight=bilateral_weight, iterations=iterations,
            normalization=normalization,
        )  # fmt: skip
        if spatial_method is None:
            spatial_method = chosen.classic_spatial_method if quality == "classic" else "separable"
        labels = validate.check_count("num_labels", num_labels, 1, "give the number of labels of the unary")
        steps = validate.check_count("iterations", chosen.iterations, 0, "0 returns the unary")
        self.num_labels, self.iterations = labels, steps
        self.eval_iterations = (
            None
            if eval_iterations is None
            else validate.check_count("eval_iterations", eval_iterations, 0, "None: the same as iterations")
        )
        self.label_weights = check_choice("label_weights", label_weights, ("vector", "matrix"))
        methods = ("separable", "lattice", "exact")
        self.spatial_method = check_choice("spatial_method", spatial_method, methods)
        self.bilateral_method = check_choice("bilateral_method", bilateral_method, methods[1:])
        self.quality = check_choice("quality", quality, QUALITIES)
        modes = ("none", "before", "after", "symmetric")
        self.normalization = check_choice("normalization", chosen.normalization, modes)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.gradient = check_choice("gradient", gradient, GRADIENTS)
        self.damping = validate.check_damping(damping)
        self.tolerance = validate.check_tolerance(tolerance)
        self.in_play = validate.check_in_play(in_play, self.activation)
        self.exclude_self = bool(exclude_self)
        self.guide_components = (
            None
            if guide_components is None
            else validate.check_count("guide_components", guide_components, 1, "None: all channels")
        )

        self.spatial_weights = self._weights("spatial_weight", chosen.spatial_weight)
        self.bilateral_weights = self._weights("bilateral_weight", chosen.bilateral_weight)
        self.compatibility = nn.Parameter(-torch.eye(len(self.spatial_weights)))
        self.log_theta_alpha = _log("theta_alpha", chosen.theta_alpha, "pixels")
        self.log_theta_beta = _log("theta_beta", chosen.theta_beta, "colour steps")
        self.log_theta_gamma = _log("theta_gamma", chosen.theta_gamma, "pixels")
        if temperature is None:
            self.register_parameter("log_temperature", None)
        else:
            self.log_temperature = _log("temperature", temperature, "temperature")
            if self.log_temperature.numel() != 1:
                raise ValueError(f"temperature: expected one number, got {temperature!r}")

    def _weights(self, name: str, value: float) -> nn.Parameter:
        number = validate.check_number(
            name, value, f"weights per label go into crf.{name}s after construction"
        )
        weights = torch.full((binary.parameter_labels(self.num_labels, self.activation),), number)
        return nn.Parameter(weights.diag() if self.label_weights == "matrix" else weights)

    @property
    def _one_logit(self) -> bool:
        """True for a single sigmoid channel; with overlapping labels every channel is a logit already."""
        return self.num_labels == 1 and self.activation != "sigmoid"

    @property
    def steps(self) -> int:
        """The default T of a call."""
        if self.training or self.eval_iterations is None:
            return self.iterations
        return self.eval_iterations

    def kernels(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
        origin: Sequence[int] | None = None,
        guide_components: int | Tensor | None = None,
    ) -> tuple[GaussianKernel, GaussianKernel]:
        """The spatial and the bilateral kernel of `image`, as `forward` builds them.

        Args:
            image: Float or UInt8 [B, C, *spatial] in 0..255.
            mask: Bool[B, *spatial], True = valid.
            dtype: float32 or float64; None takes the image's float64 or float32.
            origin: position of the first pixel, for a tile of a larger picture.
            guide_components: as in `forward`.
        """
        if dtype is None:
            dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
        image = image.to(dtype)
        if mask is not None:
            # Padding may hold any value; a constant excludes it from the range that the keys must span.
            image = torch.where(mask.unsqueeze(1), image, torch.zeros_like(image))
        alpha, beta, gamma = (
            log.to(dtype).exp() for log in (self.log_theta_alpha, self.log_theta_beta, self.log_theta_gamma)
        )
        common = {
            "normalization": self.normalization,
            "quality": self.quality,
            "mask": mask,
            "exclude_self": self.exclude_self,
            "origin": origin,
        }

        def build() -> tuple[GaussianKernel, GaussianKernel]:
            size = tuple(image.shape[2:])
            spatial = GaussianKernel.spatial(size, gamma, method=self.spatial_method, **common)
            bilateral = GaussianKernel.bilateral(
                image,
                alpha,
                beta,
                method=self.bilateral_method,
                guide_components=self.guide_components if guide_components is None else guide_components,
                **common,
            )
            return spatial, bilateral

        return unusable.named(build, lambda: unusable.bandwidth(self, image), image)

    def forward(
        self,
        unary: Tensor,
        image: Tensor,
        mask: Tensor | None = None,
        clamp: Tensor | None = None,
        iterations: int | None = None,
        origin: Sequence[int] | None = None,
        guide_components: int | Tensor | None = None,
        kernels: Sequence[GaussianKernel] | None = None,
        initial: Tensor | None = None,
    ) -> Tensor:
        """Refine `unary` along the edges of `image`.

        Args:
            unary: Float[B, L, *spatial], logits; L = 1 with ``num_labels=1``.
            image: Float or UInt8 [B, C, *spatial], any number of channels, in 0..255 (the unit of θ_β).
            mask: Bool[B, *spatial], True = valid.
            clamp: Int[B, *spatial], known labels, -1 = free; for one logit, 0 and 1 give -100 and 100.
            iterations: T of this call; None: `iterations` or, in evaluation, `eval_iterations`.
            origin: (y, x) of the first pixel in a larger picture, so that tiles of one picture share its
                lattice and the lattice's errors.
            guide_components: k, or Float[C, k] directions shared by the tiles of one picture
                (`crfrnn.crf.principal_directions`); None: the layer's own.
            kernels: the result of `kernels` for the same image, mask and bandwidths, to be reused if only the
                unary, the weights or T have changed; None builds them.
            initial: logits to start from instead of the unary, of its shape, such as a previous output.

        Warns:
            InputWarning: if the guide is not in the unit of θ_β, or for probabilities instead of logits.

        Returns:
            Logits, Float[B, L, *spatial] in the unary's dtype; divided by `temperature` even if T = 0.
        """
        refuse_torchscript("CRFRNN")
        unary = validate.check_unary(unary)
        if unary.shape[1] != self.num_labels:
            remedy = isinstance(image, Tensor) and validate.axes_remedy(unary, image, self.num_labels)
            remedy = remedy or f"build CRFRNN({unary.shape[1]}, ...)"
            if "build" in remedy and unary.shape[1] == 1:
                remedy += ", which takes one logit z per pixel for the labels [0, z] and gives one logit back"
            raise ValueError(
                f"unary: expected {self.num_labels} labels on axis 1, the layer's num_labels, got "
                f"{validate.describe(unary)}; {remedy}"
            )
        mask = validate.check_mask(mask, unary)
        image = validate.check_image(image, unary, self.num_labels)
        self._check_axes(image)
        self._check_device(unary)
        if unary.is_meta:  # shapes only, as for counting operations
            return torch.empty_like(unary)
        unit.check_guide(image, mask, self.log_theta_beta, whole=origin is None)
        unit.check_logits(unary, mask, self.activation == "sigmoid")
        steps = self.steps if iterations is None else iterations
        if exporting():
            self._check_exportable()
            if onnx_node.exporting_to_onnx():
                return onnx_node.as_node(self, unary, image, mask, clamp, steps)
        with torch.autocast(unary.device.type, enabled=False):
            dtype = torch.float64 if unary.dtype == torch.float64 else torch.float32
            logits = unary
            if self.log_temperature is not None:
                logits = (unary.to(dtype) / self.log_temperature.to(dtype).exp()).to(unary.dtype)
            start = initial
            if start is not None and self._one_logit:
                start = binary.two_labels(start, 1)
            if not steps:
                kernels = ()
            elif kernels is None:
                kernels = self.kernels(image, mask, dtype, origin, guide_components)

            def infer() -> Tensor:
                problem = Problem.of(
                    binary.two_labels(logits, 1) if self._one_logit else logits,
                    kernels,
                    (self.spatial_weights, self.bilateral_weights) if steps else (),
                    self.compatibility,
                    steps,
                    mask=mask,
                    clamp=clamp,
                    activation=self.activation,
                    damping=self.damping,
                    initial=start,
                    in_play=self.least_in_play(unary.device),
                )
                return solve(problem, self.tolerance, self.gradient)

            refined = unusable.named(infer, lambda: unusable.number(self), unary)
            return binary.one_logit(refined, 1) if self._one_logit else refined

    def least_in_play(self, device: torch.device) -> float:
        """δ of the current call: `in_play`, or its default for None."""
        if self.in_play is not None:
            return self.in_play
        spared = self.training or torch.is_grad_enabled() or self.activation == "sigmoid"
        return 0.0 if spared or device.type != "cpu" else IN_PLAY

    def __prepare_scriptable__(self) -> CRFRNN:
        refuse_torchscript("CRFRNN", scripting=True)
        return self

    def _check_exportable(self) -> None:
        """Reject options that read values between iterations or need the lattice's own table."""
        lattice = "lattice" in (self.spatial_method, self.bilateral_method)
        for name, value, wrong, remedy in (
            ("tolerance", self.tolerance, self.tolerance is not None, "None: all iterations are done"),
            (
                "gradient",
                self.gradient,
                self.gradient != "unrolled",
                "'unrolled', which gives the same logits",
            ),
            ("exclude_self", True, self.exclude_self and lattice, "False, or both methods 'exact'"),
        ):
            if wrong:
                raise NotImplementedError(
                    f"{name}: expected a layer whose steps do not depend on values for torch.export, got "
                    f"{value!r}; set crf.{name} = {remedy}"
                )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CRFRNN:
        """Keep the bandwidths' values when the layer is moved to float64.

        A logarithm rounded to float32 has a slightly different exponential in float64, and at round
        bandwidths many pixels lie on simplex boundaries of the lattice, where the last digit matters.
        """
        logs = {name: log for name, log in self.named_parameters(recurse=False) if name.startswith("log_")}
        before = {name: log.detach() for name, log in logs.items()}
        super()._apply(fn, recurse)
        for name, old in before.items():
            log = getattr(self, name)
            if old.dtype == torch.float32 and log.dtype == torch.float64:
                with torch.no_grad():
                    log.copy_(old.exp().double().log())
        return self

    def _check_device(self, unary: Tensor) -> None:
        for name, parameter in self.named_parameters(recurse=False):
            if parameter.device == unary.device:
                continue
            remedy = f"move the layer with .to({str(unary.device)!r})"
            if parameter.is_meta:
                remedy = f"give it values: .to_empty(device={str(unary.device)!r}), then load_state_dict(...)"
            raise ValueError(
                f"{name}: expected a parameter on {unary.device} as unary is, got one on {parameter.device}; "
                f"{remedy}"
            )

    def _check_axes(self, image: Tensor) -> None:
        for name, log, sizes, what in (
            ("theta_alpha", self.log_theta_alpha, image.ndim - 2, "axes"),
            ("theta_beta", self.log_theta_beta, image.shape[1], "channels"),
            ("theta_gamma", self.log_theta_gamma, image.ndim - 2, "axes"),
        ):
            if log.ndim and log.shape[0] != sizes:
                raise ValueError(
                    f"{name}: expected one number or {sizes} of them for the {what} of image "
                    f"{tuple(image.shape)}, got {log.shape[0]}"
                )

    def extra_repr(self) -> str:
        return (
            f"{self.num_labels}, iterations={self.iterations}, eval_iterations={self.eval_iterations}, "
            f"label_weights={self.label_weights!r}, spatial_method={self.spatial_method!r}, "
            f"bilateral_method={self.bilateral_method!r}, quality={self.quality!r}, "
            f"normalization={self.normalization!r}"
        )


def _log(name: str, value: Bandwidth, unit: str) -> nn.Parameter:
    return nn.Parameter(validate.check_positive(name, value, unit).log())
