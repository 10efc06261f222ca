// Runs of positions that a few lanes of a warp take together, and what these lanes have in common: numbers read four at a
// time, sums by shuffles.
#pragma once
#include "block.cuh"

// VECTOR floats, at an address that is a multiple of their size.
template <int VECTOR>
struct Floats {
    float of[VECTOR];
};

template <int VECTOR>
__device__ inline Floats<VECTOR> load(const float* from) {
    Floats<VECTOR> x;
    if constexpr (VECTOR == 4) {
        float4 four = *reinterpret_cast<const float4*>(from);
        x.of[0] = four.x, x.of[1] = four.y, x.of[2] = four.z, x.of[3] = four.w;
    } else {
        x.of[0] = *from;
    }
    return x;
}

template <int VECTOR>
__device__ inline void store(float* to, const Floats<VECTOR>& x) {
    if constexpr (VECTOR == 4)
        *reinterpret_cast<float4*>(to) = make_float4(x.of[0], x.of[1], x.of[2], x.of[3]);
    else
        *to = x.of[0];
}

// Put the sums over the lanes of a run in the place of what each has; all lanes of the warp come here.
template <class... Numbers>
__device__ inline void sum_over_lanes(int lanes, Numbers&... numbers) {
#pragma unroll 1
    for (int step = lanes / 2; step > 0; step /= 2)
        ((numbers += __shfl_xor_sync(0xffffffffu, numbers, step)), ...);
}

// How rows of maps are cut into runs: the same for all threads of a launch. That a run is of several positions is what
// pays for the divisions by which its place is found.
struct Runs {
    int images, height, width;
    int of_row, span;  // runs of a row, positions of a run
    int bits;          // 1 << bits lanes take a run
};

// The run of this thread's lanes; beyond the last one it has no positions.
struct Run {
    int image, y, x, end;  // the positions x … end − 1 of row y
    int lane, lanes;
    __device__ explicit Run(const Runs& s) {
        unsigned number = blockIdx.x * (THREADS >> s.bits) + (threadIdx.x >> s.bits), row = number / s.of_row;
        image = static_cast<int>(row / s.height);
        y = static_cast<int>(row % s.height);
        x = static_cast<int>(number % s.of_row) * s.span;
        end = image < s.images ? min(x + s.span, s.width) : x;
        lanes = 1 << s.bits;
        lane = threadIdx.x % lanes;
    }
};
