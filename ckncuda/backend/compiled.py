"""Inner loops of the NumPy backend, compiled by Numba where it is installed (the extra ``fast``).

What is here is memory traffic that NumPy cannot fuse: the transforms of Winograd's algorithm, κ and
the scale by the norms in one pass, patches of few channels, pooling with its few taps.  The products
stay with BLAS.  Every function releases the GIL and works on one thread's tile.

The transforms of Winograd's algorithm are written out here; `winograd` has the matrices.
"""

# Numba's decorators are not typed, and its functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, njit, types
from numba.extending import intrinsic

_CHUNK = 64  # filters at a time: a tile's 24 half-transformed rows of them stay in the first-level cache
# Multiply-add may be fused, the order of sums stays: the result does not depend on vector lengths.
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}}


def needs_compilation() -> bool:
    """Whether the first call will compile: these functions are kept on disk once they have been."""
    folder = Path(patch_norms.stats.cache_path)
    return not any(folder.glob("compiled.patch_norms-*.nbi"))


@intrinsic
def _float_of_bits(context, bits):
    """The float32 whose bits an int32 holds."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always", **_OPTIONS)
def _exp(x):
    """exp(x) of x ≤ 0 in float32, to 2 units in the last place: 2^n times a polynomial on ±ln 2 / 2.

    Written out so that it is vectorised with the loop around it; x below −87 gives about 1e-38.  A
    cosine is at most 1, so that x > 0 is rounding, which beside much brighter patches may be large.
    """
    x = min(max(x, float32(-87.0)), float32(0.0))
    # Adding 1.5 · 2^23 leaves no room for a fraction: it rounds to the nearest whole number.
    n = (x * float32(1.4426950408889634) + float32(12582912.0)) - float32(12582912.0)
    r = x - n * float32(0.693145751953125)
    r = r - n * float32(1.428606765330187e-06)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    p = p * r * r + r + float32(1.0)
    return p * _float_of_bits((int32(n) + int32(127)) << int32(23))


@njit(**_OPTIONS)
def patch_norms(padded, k, norms):
    """Norms [b, h, w] of the k×k patches of padded maps [b, ≥ h+k−1, ≥ w+k−1, c]."""
    b, h, w = norms.shape
    c = padded.shape[3]
    width = w + k - 1
    line = np.empty((k, width), np.float32)  # squared norms of the positions of k rows, in turn
    for i in range(b):
        for y in range(h + k - 1):
            row = line[y % k]
            for x in range(width):
                total = float32(0.0)
                for q in range(c):
                    total += padded[i, y, x, q] * padded[i, y, x, q]
                row[x] = total
            if y >= k - 1:
                for x in range(w):
                    total = float32(0.0)
                    for dy in range(k):
                        for dx in range(k):
                            total += line[dy, x + dx]
                    norms[i, y - k + 1, x] = np.sqrt(total)


@njit(**_OPTIONS)
def patch_rows(padded, k, rows):
    """Patches as rows [b, h, w, k·k·c] of padded maps: k runs of k·c numbers each."""
    b, h, w, _ = rows.shape
    c = padded.shape[3]
    run = k * c
    for i in range(b):
        for y in range(h):
            for dy in range(k):
                source = padded[i, y + dy].reshape(-1)
                for x in range(w):
                    target = rows[i, y, x, dy * run : (dy + 1) * run]
                    part = source[x * c : x * c + run]
                    for q in range(run):
                        target[q] = part[q]


@njit(**_OPTIONS)
def exponential(y, scale, shift, factor):
    """In place: y [m, p] becomes factor · exp(scale · y + shift), with these three [m] for each row."""
    m, p = y.shape
    for i in range(m):
        row, s, t, f = y[i], scale[i], shift[i], factor[i]
        for q in range(p):
            row[q] = f * _exp(s * row[q] + t)


@njit(**_OPTIONS)
def winograd_input(padded, v):
    """Bᵀ d B of the 6×6 tiles of padded maps [b, 4·th+2, 4·tw+2, c]: v [36, b·th·tw, c]."""
    b, height, width, c = padded.shape
    th, tw = (height - 2) // 4, (width - 2) // 4
    d = np.empty((6, 6, c), np.float32)
    for i in range(b):
        for ty in range(th):
            r0, r1, r2 = padded[i, 4 * ty], padded[i, 4 * ty + 1], padded[i, 4 * ty + 2]
            r3, r4, r5 = padded[i, 4 * ty + 3], padded[i, 4 * ty + 4], padded[i, 4 * ty + 5]
            for tx in range(tw):
                tile = (i * th + ty) * tw + tx
                for dx in range(6):
                    x = 4 * tx + dx
                    _input_column(
                        r0[x], r1[x], r2[x], r3[x], r4[x], r5[x],
                        d[0, dx], d[1, dx], d[2, dx], d[3, dx], d[4, dx], d[5, dx],
                    )  # fmt: skip
                for y in range(6):
                    j = 6 * y
                    _input_column(
                        d[y, 0], d[y, 1], d[y, 2], d[y, 3], d[y, 4], d[y, 5],
                        v[j, tile], v[j + 1, tile], v[j + 2, tile],
                        v[j + 3, tile], v[j + 4, tile], v[j + 5, tile],
                    )  # fmt: skip


@njit(inline="always", **_OPTIONS)
def _input_column(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5):
    """Bᵀ times a column of six, for all channels."""
    for q in range(len(a0)):
        x0, x1, x2, x3, x4, x5 = a0[q], a1[q], a2[q], a3[q], a4[q], a5[q]
        even, odd = x4 - float32(4.0) * x2, x3 - float32(4.0) * x1
        half, twice = x4 - x2, float32(2.0) * (x3 - x1)
        b0[q] = float32(4.0) * x0 - float32(5.0) * x2 + x4
        b1[q] = even + odd
        b2[q] = even - odd
        b3[q] = half + twice
        b4[q] = half - twice
        b5[q] = float32(4.0) * x1 - float32(5.0) * x3 + x5


@njit(**_OPTIONS)
def winograd_output(m, y, scale, shift, factor, apply_exp):
    """Aᵀ m A of products m [36, b·th·tw, p]: maps y [b, h, w, p], of what lies inside them.

    With ``apply_exp``, y is factor · exp(scale · value + shift) at once, with a scale, shift and factor
    [b, h, w] for each position.
    """
    b, h, w, p = y.shape
    th, tw = (h + 3) // 4, (w + 3) // 4
    s = np.empty((4, 6, _CHUNK), np.float32)
    o = np.empty((4, _CHUNK), np.float32)
    for i in range(b):
        for ty in range(th):
            for tx in range(tw):
                tile = (i * th + ty) * tw + tx
                for q0 in range(0, p, _CHUNK):
                    n = min(_CHUNK, p - q0)
                    q1 = q0 + n
                    for x in range(6):
                        _output_column(
                            m[x, tile, q0:q1], m[6 + x, tile, q0:q1], m[12 + x, tile, q0:q1],
                            m[18 + x, tile, q0:q1], m[24 + x, tile, q0:q1], m[30 + x, tile, q0:q1],
                            s[0, x], s[1, x], s[2, x], s[3, x], n,
                        )  # fmt: skip
                    for dy in range(min(4, h - 4 * ty)):
                        _output_column(
                            s[dy, 0], s[dy, 1], s[dy, 2], s[dy, 3], s[dy, 4], s[dy, 5],
                            o[0], o[1], o[2], o[3], n,
                        )  # fmt: skip
                        yy = 4 * ty + dy
                        for dx in range(min(4, w - 4 * tx)):
                            xx = 4 * tx + dx
                            target, value = y[i, yy, xx, q0:q1], o[dx]
                            if apply_exp:
                                k, t, f = scale[i, yy, xx], shift[i, yy, xx], factor[i, yy, xx]
                                for q in range(n):
                                    target[q] = f * _exp(k * value[q] + t)
                            else:
                                for q in range(n):
                                    target[q] = value[q]


@njit(inline="always", **_OPTIONS)
def _output_column(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3, n):
    """Aᵀ times a column of six, for n filters."""
    for q in range(n):
        plus, minus = m1[q] + m2[q], m1[q] - m2[q]
        plus2, minus2 = m3[q] + m4[q], m3[q] - m4[q]
        y0[q] = m0[q] + plus + plus2
        y1[q] = minus + float32(2.0) * minus2
        y2[q] = plus + float32(4.0) * plus2
        y3[q] = minus + float32(8.0) * minus2 + m5[q]


@njit(**_OPTIONS)
def pool(y, row_weights, row_first, row_count, column_weights, column_first, column_count, pooled):
    """Pool maps y [b, h, w, p] to [b, h', w', p], rows first, with each position's taps alone."""
    b, h, w, p = y.shape
    line = np.empty(w * p, np.float32)
    for i in range(b):
        flat = y[i].reshape(h, w * p)
        for u in range(pooled.shape[1]):
            line[:] = 0
            for j in range(row_count[u]):
                source, weight = flat[row_first[u] + j], row_weights[u, j]
                for q in range(w * p):
                    line[q] += weight * source[q]
            for v in range(pooled.shape[2]):
                target = pooled[i, u, v]
                target[:] = 0
                for j in range(column_count[v]):
                    start = (column_first[v] + j) * p
                    part, weight = line[start : start + p], column_weights[v, j]
                    for q in range(p):
                        target[q] += weight * part[q]
