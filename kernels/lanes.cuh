// Positions that a few lanes of a warp share: a power of two of them, so that sums go by shuffles within a warp.
#pragma once
#include "block.cuh"

// VECTOR floats at a time, at an address that is a multiple of their size.
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

// The sum over the lanes of a position, in all of them; all lanes of the warp come here.
__device__ inline float sum_of_lanes(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The position of this thread among those of the launch, and which of its lanes the thread is.
struct Lane {
    int position, number;
    __device__ explicit Lane(int lanes)
        : position(blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes), number(threadIdx.x % lanes) {}
};
