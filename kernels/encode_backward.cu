// From the gradient by a layer's pooled map to those by the products ⟨z_j, P x(u)⟩ and by the norms n(u): the pooling
// transposed, then κ and κ', in one pass over the map before pooling, which is never written itself.
//
// Tile. A few lanes of a warp take a run of positions u of a row (lanes.cuh), and of each VECTOR filters a lane at a time. A
// lane gathers the pooled positions that u counts in: up to 3 × 3 of a Gaussian's 2s + 1 taps at distances of s.
//
// Registers: VECTOR gradients, VECTOR products, two sums over the filters; loops are not unrolled, so that there is room for
// other threads, which hide the time of the loads. Shared memory: none; pooled positions that neighbours share come from L1.
// Global memory: a product is read, and the gradient written in its place; the pooled map's gradient once (from L2).
// No atomics: every number is one thread's, and the sums over the lanes go by shuffles, in one order.
// Floor: twice the map before pooling at the rate of memory.
#include "dot_product.cuh"
#include "lanes.cuh"

// The pooled positions along one side in which a position is: those of which it is tap 0, 1, … of `taps`.
struct PooledIn {
    int first, count;
    __device__ PooledIn(int from_origin, const Divisor& by_step, int subsampling, int taps, int pooled) {
        first = by_step.quotient(max(0, from_origin - taps + subsampling));
        count = min(pooled, by_step.quotient(max(0, from_origin + subsampling))) - first;
    }
};

template <class Kernel, int VECTOR>  // 4, where the filters are a multiple of it
__global__ void __launch_bounds__(THREADS, 4) encode_backward(
    float* __restrict__ products,          // [positions, filters]: ⟨z_j, P x(u)⟩; then the gradient by it
    const float* __restrict__ norms,       // [positions]: n(u)
    const float* __restrict__ by_pooled,   // [images, pooled_height, pooled_width, filters]: the gradient
    float* __restrict__ by_norm,           // [positions]: (∂/∂n)/n
    const float* __restrict__ parameters,  // of κ
    const float* __restrict__ weights,     // [taps_y + taps_x] of the pooling
    int filters,
    int map_height, int map_width,         // before pooling
    int pooled_height, int pooled_width,
    int subsampling, int taps_y, int taps_x,
    int origin_y, int origin_x,            // of the first pooled position's taps
    int images, int runs, int span, int bits,
    float norm_floor, int scale_is_floored) {
    Run run({images, map_height, map_width, runs, span, bits});
    Divisor by_step(subsampling);
    int y = run.y - origin_y;
    PooledIn rows(y, by_step, subsampling, taps_y, pooled_height);
    const float* weight_y = weights + (y - rows.first * subsampling);  // of the first row; s back that of the next
    size_t pooled_row = static_cast<size_t>(run.image) * pooled_height + rows.first;
    size_t row = static_cast<size_t>(run.image) * map_height + run.y;
    Kernel kernel(parameters);
#pragma unroll 1
    for (int i = 0; i < span; ++i) {
        bool there = run.x + i < run.end;
        int x = run.x + i - origin_x;
        PooledIn columns(x, by_step, subsampling, taps_x, pooled_width);
        const float* weight_x = weights + (taps_y + x - columns.first * subsampling);
        size_t u = row * map_width + run.x + i;
        float norm = there ? norms[u] : 0, floored = norm < norm_floor ? norm_floor : norm;  // NaN stays
        float inverse = __fdividef(1, floored), factor = scale_is_floored ? 1.0f : norm * inverse;
        float values = 0, slopes = 0;
        float* of_position = products + u * filters;
        const float* corner = by_pooled + (pooled_row * pooled_width + columns.first) * filters;
#pragma unroll 1
        for (int filter = run.lane * VECTOR; filter < (there ? filters : 0); filter += run.lanes * VECTOR) {
            Floats<VECTOR> by_map{};
            const float *of_row = corner + filter, *tap_y = weight_y;
#pragma unroll 1
            for (int j = 0; j < rows.count; ++j, of_row += pooled_width * filters, tap_y -= subsampling) {
                const float *from = of_row, *tap_x = weight_x;
#pragma unroll 1
                for (int k = 0; k < columns.count; ++k, from += filters, tap_x -= subsampling) {
                    float weight = *tap_y * *tap_x;
                    Floats<VECTOR> pooled = load<VECTOR>(from);
#pragma unroll
                    for (int l = 0; l < VECTOR; ++l) by_map.of[l] = fmaf(weight, pooled.of[l], by_map.of[l]);
                }
            }
            Floats<VECTOR> product = load<VECTOR>(of_position + filter);
#pragma unroll
            for (int l = 0; l < VECTOR; ++l) {
                float t = product.of[l] * inverse, value, slope;
                kernel.with_slope(t, value, slope);
                values = fmaf(by_map.of[l], value, values);
                float by_cosine = by_map.of[l] * slope;
                slopes = fmaf(by_cosine, t, slopes);
                product.of[l] = by_cosine * factor;
            }
            store(of_position + filter, product);
        }
        sum_over_lanes(run.lanes, values, slopes);
        // n is a factor of n κ(t), where the floor does not take its place, and the divisor of t, above the floor.
        bool above = norm > norm_floor, scaled = above || (norm > 0 && !scale_is_floored);
        if (there && run.lane == 0)
            by_norm[u] = ((scaled ? values : 0) - (above ? slopes : 0)) * (above ? inverse : scaled ? __fdividef(1, norm) : 0);
    }
}
