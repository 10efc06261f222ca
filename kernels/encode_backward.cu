// From the gradient by a layer's pooled map to those by the products ⟨z_j, P x(u)⟩ and by the norms n(u): the pooling
// transposed, then κ and κ', in one pass over the map before pooling, which is never written itself.
//
// Tile. A position u is taken by `lanes` threads of a warp, a power of two of them, VECTOR filters a thread at a time. A thread
// gathers the pooled positions that u counts in: up to 3 × 3 of a Gaussian's 2s + 1 taps at distances of s.
//
// Registers: VECTOR gradients, VECTOR products, two sums over the filters. Shared memory: none; pooled positions that
// neighbours share come from L1.
// Global memory: a product is read, and the gradient written in its place; the pooled map's gradient once (from L2).
// No atomics: every number is one thread's, and the sums over the lanes go by shuffles, in one order.
// Floor: twice the map before pooling at the rate of memory.
#include "dot_product.cuh"
#include "lanes.cuh"

template <class Kernel, int VECTOR>  // 4, where the filters are a multiple of it
__global__ void __launch_bounds__(THREADS, 4) encode_backward(
    float* __restrict__ products,         // [positions, filters]: ⟨z_j, P x(u)⟩; then the gradient by it
    const float* __restrict__ norms,      // [positions]: n(u)
    const float* __restrict__ by_pooled,  // [images, pooled_height, pooled_width, filters]: the gradient
    float* __restrict__ by_norm,          // [positions]: (∂/∂n)/n
    const float* __restrict__ parameters, // of κ
    const float* __restrict__ weights,    // [taps_y + taps_x] of the pooling
    int filters,
    int map_height, int map_width,        // before pooling
    int pooled_height, int pooled_width,
    int subsampling, int taps_y, int taps_x,
    int origin_y, int origin_x,           // of the first pooled position's taps
    int positions, int lanes,
    float norm_floor, int scale_is_floored) {
    Lane lane(lanes);
    bool there = lane.position < positions;
    int u = there ? lane.position : 0, x = u % map_width - origin_x, rest = u / map_width;
    int y = rest % map_height - origin_y, image = rest / map_height;
    // The pooled rows and columns in which u is: those of which it is tap 0, 1, … of `taps`.
    int top = max(0, floor_divide(y - taps_y, subsampling) + 1);
    int bottom = min(pooled_height, floor_divide(y, subsampling) + 1);
    int left = max(0, floor_divide(x - taps_x, subsampling) + 1);
    int right = min(pooled_width, floor_divide(x, subsampling) + 1);

    int rows = bottom - top, columns = right - left;
    const float* weight_y = weights + (y - top * subsampling);  // of the first row; s further back those that follow
    const float* weight_x = weights + (taps_y + x - left * subsampling);
    size_t first = (static_cast<size_t>(image) * pooled_height + top) * pooled_width + left;

    float norm = norms[u], floored = norm < norm_floor ? norm_floor : norm;  // NaN stays
    float inverse = 1 / floored, factor = (scale_is_floored ? floored : norm) / floored;
    float values = 0, slopes = 0;
    Kernel kernel(parameters);
    float* row = products + static_cast<size_t>(u) * filters;
    // Loops are not unrolled: a thread with few registers leaves room for others, which hide the time of its loads.
#pragma unroll 1
    for (int filter = lane.number * VECTOR; filter < (there ? filters : 0); filter += lanes * VECTOR) {
        Floats<VECTOR> by_map{};
        const float* of_row = by_pooled + (first * filters + filter);
#pragma unroll 1
        for (int i = 0; i < rows; ++i, of_row += pooled_width * filters) {
            float weight_of_row = weight_y[-i * subsampling];
            const float* from = of_row;
#pragma unroll 1
            for (int j = 0; j < columns; ++j, from += filters) {
                float weight = weight_of_row * weight_x[-j * subsampling];
                Floats<VECTOR> pooled = load<VECTOR>(from);
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) by_map.of[k] = fmaf(weight, pooled.of[k], by_map.of[k]);
            }
        }
        Floats<VECTOR> product = load<VECTOR>(row + filter);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            float t = product.of[k] * inverse, value, slope;
            kernel.with_slope(t, value, slope);
            values = fmaf(by_map.of[k], value, values);
            float by_cosine = by_map.of[k] * slope;
            slopes = fmaf(by_cosine, t, slopes);
            product.of[k] = by_cosine * factor;
        }
        store(row + filter, product);
    }
    values = sum_of_lanes(values, lanes);
    slopes = sum_of_lanes(slopes, lanes);
    if (!there || lane.number > 0) return;
    // n is a factor of n κ(t), where the floor does not take its place, and the divisor of t, above the floor.
    bool above = norm > norm_floor, scaled = above || (norm > 0 && !scale_is_floored);
    by_norm[u] = ((scaled ? values : 0) - (above ? slopes : 0)) / (norm > 0 ? norm : 1);
}
