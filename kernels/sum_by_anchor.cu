// Sums of the patches that are nearest to each anchor: what k-means' means are made of.
//
// Tile. A block has one anchor and 32 of the d numbers, its 8 warps every eighth of the anchor's patches, in the order
// of a stable sort: no atomics, so that the same patches give the same bits.
//
// Registers: one sum a thread, in float64: clusters may hold 100,000 patches. Shared memory: 8 × 32 sums.
// Global memory: every patch once, 128 bytes at a time. Floor: the patches at the rate of memory.
#include "primitives.cuh"

constexpr int LANES = 32, WARPS = 8;

__global__ void __launch_bounds__(LANES * WARPS) sum_by_anchor(
    const float* __restrict__ patches,    // [count, size]
    const long long* __restrict__ order,  // [count]: the patches sorted by their anchor
    const long long* __restrict__ start,  // [clusters + 1]: where each anchor's begin in that order
    float* __restrict__ sums,             // [clusters, size]
    int size) {
    double* partial = reinterpret_cast<double*>(dynamic_shared());  // [WARPS][LANES]
    int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    int anchor = blockIdx.x, column = blockIdx.y * LANES + lane;
    double sum = 0;
    if (column < size)
        for (long long i = start[anchor] + warp; i < start[anchor + 1]; i += WARPS)
            sum += patches[order[i] * size + column];
    partial[warp * LANES + lane] = sum;
    __syncthreads();
    if (warp == 0 && column < size) {
        for (int other = 1; other < WARPS; ++other) sum += partial[other * LANES + lane];
        sums[static_cast<size_t>(anchor) * size + column] = static_cast<float>(sum);
    }
}
