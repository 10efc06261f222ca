"""A layer that has learned its anchor points: `Layer`."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidSpec
from ckncuda.layer.projection import Spectrum, spectrum_of
from ckncuda.layer.spec import LayerSpec

DECORRELATION_FLOOR = 0.01  # of the mean variance: directions of less are not amplified further


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that has learned its anchor points.

    Attributes
    ----------
    spec : LayerSpec
        Its kernel has all its parameters.
    anchors : float32 or float64 [filters, height, width, channels]
        Anchor points z_j, each of norm 1.
    projection : float64 [filters, filters]
        W = K_ZZ^{-1/2}, or V W with what decorrelates its outputs.
    """

    spec: LayerSpec
    anchors: NDArray[np.floating[Any]]
    projection: NDArray[np.float64]

    @classmethod
    def from_anchors(
        cls, spec: LayerSpec, anchors: NDArray[np.floating[Any]], *, keep_spectrum: bool = False
    ) -> "Layer":
        """Compute the projection of given anchor points [filters, height, width, channels].

        ``keep_spectrum`` spares `projection_backward` the decomposition of K_ZZ, at the cost of its memory.

        Raises
        ------
        InvalidSpec
            The anchors are not of the specification's shape, not finite or not of norm 1 (within 1e-3);
            or outputs shall be decorrelated, which anchors alone do not tell how to.
        """
        if spec.decorrelation:
            raise InvalidSpec(
                f"decorrelation is {spec.decorrelation}, but its matrix is learned from images: "
                "fit the network, or give anchors without it"
            )
        anchors = np.asarray(anchors)
        check_anchors(spec, anchors)
        spectrum = _spectrum(spec, anchors)
        layer = cls(spec, anchors, spectrum.inverse_square_root())
        if keep_spectrum:
            layer.__dict__["spectrum"] = spectrum  # what the cached property would compute again
        return layer

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """K_ZZ = U diag(λ) Uᵀ."""
        return _spectrum(self.spec, self.anchors)

    def projection_backward(self, upstream: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Carry a gradient by W [filters, filters] back through K_ZZ^{-1/2} to one by the anchor points.

        Of a layer that decorrelates its outputs, what does so is held.  The result [filters, height, width,
        channels] is that of unconstrained anchor points, of which K_ZZ = κ(Z Zᵀ).
        """
        upstream = upstream.astype(np.float64)
        if self.spec.decorrelation:  # W = V K_ZZ^{-1/2}
            upstream = (self.projection @ self.spectrum.square_root()).T @ upstream
        by_gram = self.spectrum.inverse_square_root_gradient(upstream)
        flat = self.anchors.reshape(self.spec.filters, -1).astype(np.float64)
        cosines = flat @ flat.T
        np.fill_diagonal(cosines, 1)  # but for rounding, of which κ' of arccos1 has the square root
        by_anchors: NDArray[np.float64] = 2 * (by_gram * self.spec.kernel.derivative(cosines)) @ flat
        return by_anchors.reshape(self.anchors.shape)

    def outputs_backward(self, sums: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Do as `projection_backward` does, from Gᵀ X', summed over the positions of outputs X' = P Wᵀ.

        Gradients G by outputs need these alone, not the pooled map P: Gᵀ P = (Gᵀ X') W^{-T}.  W is of full
        rank, being regularised, and no worse than K_ZZ^{-1/2}.
        """
        if self.spec.decorrelation:
            return self.projection_backward(np.linalg.solve(self.projection, sums.T).T)
        return self.projection_backward(sums @ self.spectrum.square_root())  # W is symmetric

    def decorrelated(self, power: float, outputs: Iterable[NDArray[np.floating[Any]]]) -> "Layer":
        """Return this layer with outputs multiplied by (C/λ̄ + 0.01)^{-power}; see `LayerSpec`.

        C is that of ``outputs`` [m, filters], block by block on the host, at many positions of many images.
        """
        count, total = 0, np.zeros(self.spec.filters)
        products = np.zeros((self.spec.filters, self.spec.filters))
        for block in outputs:
            exact = block.astype(np.float64)
            count += len(exact)
            total += exact.sum(axis=0)
            products += exact.T @ exact
        mean = total / count
        eigenvalues, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
        scaled = np.maximum(eigenvalues, 0) / max(float(eigenvalues.mean()), np.finfo(np.float64).tiny)
        matrix = (vectors * (scaled + DECORRELATION_FLOOR) ** -power) @ vectors.T
        spec = replace(self.spec, decorrelation=power)
        return Layer(spec, self.anchors, matrix @ self.projection)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: that of the specification."""
        return self.spec.to_dict()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        return {"anchors": self.anchors, "projection": self.projection}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Layer":
        """Rebuild a layer from what `to_dict` and `arrays` gave.

        The projection is taken as it is: computing it again takes long, and differs in the last digits.
        """
        spec = LayerSpec.from_dict(dict(options))
        anchors, projection = arrays["anchors"], arrays["projection"]
        check_anchors(spec, anchors)
        if projection.shape != (spec.filters, spec.filters) or not np.isfinite(projection).all():
            raise ValueError(
                f"the projection of {spec.filters} filters is of shape {list(projection.shape)} or not finite"
            )
        return cls(spec, anchors, projection)

    @property
    def n_parameters(self) -> int:
        """Count the numbers that the layer has learned: its anchor points; a projection follows from them."""
        return int(self.anchors.size)


def _spectrum(spec: LayerSpec, anchors: NDArray[np.floating[Any]]) -> Spectrum:
    flat = anchors.reshape(spec.filters, -1).astype(np.float64)
    return spectrum_of(spec.kernel.value(flat @ flat.T), spec.whitening, spec.epsilon)


def check_anchors(spec: LayerSpec, anchors: NDArray[Any]) -> None:
    """Raise `InvalidSpec` unless these are anchor points for a layer: their shape, type and norm 1."""
    expected = (spec.filters, *spec.patch_shape)
    if anchors.ndim != 4 or anchors.shape[:3] != expected:
        height, width = spec.patch_shape
        raise InvalidSpec(
            f"anchors are of shape {list(anchors.shape)}; the layer needs "
            f"[filters, patch, patch, channels] = [{spec.filters}, {height}, {width}, channels]"
        )
    if anchors.dtype not in (np.float32, np.float64):
        raise InvalidSpec(f"anchors are of type {anchors.dtype}; give float32 or float64")
    flat = anchors.reshape(spec.filters, -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    if not np.all(np.abs(norms - 1) < 1e-3):  # written so that NaN fails too
        raise InvalidSpec(
            f"anchor points must be of norm 1; here the norms go from {norms.min():.4g} to "
            f"{norms.max():.4g}: divide each by its norm"
        )
