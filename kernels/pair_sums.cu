// A further layer of the exact kernel of pairs of images: from the map G(u, v) of the layer before, sums over patches
// S(u, v) = Σ_δ G(u + δ, v + δ), cosines t = S / (n n'), n κ(t) n', pooled along both images. With tangents, those too:
// A (Σ_δ Θ(u + δ, v + δ) κ_0(t) + n κ_1(t) n').
//
// Tile. A block of 256 threads has one pair (pair_pooling.cuh); a warp has `columns` of a row of v, 8, 16 or 32, and 32
// over `columns` positions u at once, ROWS times.
//
// Registers: 8 values a thread (4 twice with tangents), three times as many open sums.
// Shared memory: where the tile's positions u lie, and their norms; what the pooling takes.
// Global memory: the map before, once a position of a patch from L1 and L2 and once from memory; the pooled map.
//
// Arithmetic: as many additions as a patch has positions, and one κ, for a pair of positions. Floor: the map before at the rate of memory; of 225 × 225
// floats 0.05 μs on an H200.
#include "pair_pooling.cuh"

// What norms are needed for: to divide by, and to multiply with.
struct Norms {
    const float *inverse, *factor;  // [map_height, map_width] of an image
};

template <class Kernel, bool TANGENT>
class SumSource {
    Kernel kernel;
    const PairShape& s;
    const float *maps, *tangent_maps;  // [height, width, height, width] of the pair
    Norms first, second;
    int height, width, patch_height, patch_width, above, before;
    int columns, slots_at_once, first_slot, first_column;
    int *place_y, *place_x;    // shared [slots]
    float *inverse, *factors, *exist;  // shared [slots]

    // Σ_δ G(u + δ, v + δ) over the δ for which both lie inside.
    __device__ void add_patches(int y, int x, int y2, int x2, float& sum, float& tangent) const {
        y -= above;
        x -= before;
        y2 -= above;
        x2 -= before;
        int first_y = max(0, max(-y, -y2)), last_y = min(patch_height, height - max(y, y2));
        int first_x = max(0, max(-x, -x2)), last_x = min(patch_width, width - max(x, x2));
        int area = height * width;
        for (int dy = first_y; dy < last_y; ++dy) {
            int from = ((y + dy) * width + x + first_x) * area + (y2 + dy) * width + x2 + first_x;
            for (int dx = first_x; dx < last_x; ++dx, from += area + 1) {
                sum += maps[from];
                if constexpr (TANGENT) tangent += tangent_maps[from];
            }
        }
    }

public:
    static constexpr int ROWS = TANGENT ? 4 : 8, GROUPS = ROWS / 4;

    __device__ SumSource(
        const PairShape& s, const float* maps, const float* tangent_maps, const Norms& first, const Norms& second,
        const float* parameters, int height, int width, int patch_height, int patch_width, int above, int before,
        int columns, unsigned char*& shared)
        : kernel(parameters), s(s), maps(maps), tangent_maps(tangent_maps), first(first), second(second),
          height(height), width(width), patch_height(patch_height), patch_width(patch_width), above(above),
          before(before), columns(columns), slots_at_once(32 / columns) {
        place_y = take<int>(shared, s.slots);
        place_x = take<int>(shared, s.slots);
        inverse = take<float>(shared, s.slots);
        factors = take<float>(shared, s.slots);
        exist = take<float>(shared, s.slots);
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        first_slot = (warp >> s.across_log2) * ROWS * slots_at_once + lane / columns;
        first_column = (warp & ((1 << s.across_log2) - 1)) * columns + lane % columns;
    }

    __device__ int slot(int row) const { return first_slot + row * slots_at_once; }
    __device__ static constexpr int row(int group, int i) { return 4 * group + i; }
    __device__ int column() const { return first_column; }
    __device__ static constexpr int offset(int, int) { return 0; }
    __device__ float factor(int row) const { return exist[slot(row)]; }

    __device__ void begin(const Tile& tile) {
        Divisor by_columns(s.tile_columns);
#pragma unroll 1
        for (int i = threadIdx.x; i < s.slots; i += THREADS) {
            int y, x;
            exist[i] = tile.place(i, by_columns, y, x);
            place_y[i] = y;
            place_x[i] = x;
            inverse[i] = first.inverse[y * s.map_width + x];
            factors[i] = first.factor[y * s.map_width + x];
        }
        __syncthreads();
    }

    template <class Take>
    __device__ void values(int y, Take take) {
        bool exists = first_column < s.map_width;
        int at = y * s.map_width + first_column;
        float inverse2 = exists ? second.inverse[at] : 0, factor2 = exists ? second.factor[at] : 0;
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            float values[4], tangents[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float sum = 0, tangent = 0;
                int u = slot(row(group, i));
                if (exists) add_patches(place_y[u], place_x[u], y, first_column, sum, tangent);
                float t = sum * inverse[u] * inverse2, factor = factors[u] * factor2;
                if constexpr (TANGENT) {
                    float relu, step;
                    relu_and_step(t, relu, step);
                    values[i] = factor * relu;
                    tangents[i] = fmaf(tangent, step, values[i]);
                } else {
                    values[i] = factor * kernel(t);
                }
            }
            take(group, values, tangents);
        }
    }
};

template <class Kernel, bool TANGENT, int TAPS, int SUBSAMPLING>
__global__ void __launch_bounds__(THREADS, 2) pair_sums(
    const float* __restrict__ maps,            // [pairs, height, width, height, width]
    const float* __restrict__ tangent_maps,    // the same
    const float* __restrict__ first_inverse,   // [images, map_height, map_width]
    const float* __restrict__ first_factor,
    const float* __restrict__ second_inverse,
    const float* __restrict__ second_factor,
    const int* __restrict__ first_numbers,     // [pairs]: of their images
    const int* __restrict__ second_numbers,
    float* __restrict__ pooled,                // [pairs, pooled_height, pooled_width, pooled_height, pooled_width]
    float* __restrict__ tangents,              // the same; both hold zeros
    const float* __restrict__ parameters,      // of the kernel
    const float* __restrict__ weights,         // [taps_y + TAPS] of the pooling
    int map_height, int map_width, int pooled_height, int pooled_width, int taps_y, int origin_y, int origin_x,
    int top, int bottom, int left, int right, int tile_rows, int tile_columns, int reached, int across_log2, int slots, int stride,
    int height, int width, int patch_height, int patch_width,
    int above, int before,                     // zeros above and left of a map
    int columns) {
    PairShape shape{map_height, map_width, pooled_height, pooled_width, taps_y, origin_y, origin_x,
                    top, bottom, left, right, tile_rows, tile_columns, reached, across_log2, slots, stride};
    unsigned char* shared = dynamic_shared();
    PairPooling<TAPS, SUBSAMPLING> pooling(shape, weights, shared);
    size_t x = first_numbers[blockIdx.x], y = second_numbers[blockIdx.x];
    size_t area = static_cast<size_t>(map_height) * map_width, before_area = static_cast<size_t>(height) * width;
    size_t pair = blockIdx.x * before_area * before_area;
    Norms first{first_inverse + x * area, first_factor + x * area};
    Norms second{second_inverse + y * area, second_factor + y * area};
    SumSource<Kernel, TANGENT> source(
        shape, maps + pair, tangent_maps + pair, first, second, parameters, height, width, patch_height, patch_width,
        above, before, columns, shared);
    pool_pairs<TANGENT>(source, pooling, shape, pooled, tangents);
}
