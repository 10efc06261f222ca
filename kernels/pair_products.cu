// The first layer of the exact kernel of pairs of images: cosines t(u, v) of all patches of one with all patches of the
// other, n(u) κ(t(u, v)) n(v), pooled along both: [pooled positions of the first, pooled positions of the second].
// With tangents, those too: A (n (t κ_0(t) + κ_1(t)) n') Aᵀ.
//
// Tile. A block of 256 threads has one pair (pair_pooling.cuh); a warp has 16 positions u and 32 of a row of v (16 with
// tangents). The patches come divided by their norms and as the products read them.
//
// Registers: 48 open sums of a row of v, and two steps of 16 terms of the patches of u, 16.
// Shared memory: the patches of a row of v, twice, since the next ones arrive while these are used; where the tile's
// positions u lie, and their norms; what the pooling takes.
// Global memory: the patches of v once for each tile of u (from L2), the patches of u once where they have at most 32
// terms, the pooled map. The map before pooling, s⁴ times larger, is never written.
//
// Arithmetic: 2 h w c FLOP a pair of positions, of patches h × w, three times that in halves on tensor cores (F16x3), and
// one κ. Floor: the larger of both, which for exp and 27 terms are about alike: 1,024 × 1,024 pairs take 0.2 to 0.3 μs on
// an H200. What bounds it is the number of instructions, some 15 a pair of positions beside those.
#include "pair_pooling.cuh"

constexpr int STEP = 16;  // terms

// `position_words`: the distance of the words of two neighbours in a row.
struct Fma {  // plain float32 arithmetic, for any GPU
    static constexpr int position_words = 1;
};
template <int STEPS>  // of a patch: 1, 2, or 0: any number
struct F16x3 {  // float32 by three products of halves: a = big + small, a b ≈ big big' + big small' + small big'
    static constexpr int position_words = STEP;
};

// An image's patches as products read them. For each row of positions, words of 32 bits: patches over their norms
// [steps, pitch, STEP], then the norms [pitch]; `pitch` are the positions and zeros that fill the last warp's up.
struct PatchRows {
    const uint32_t* words;
    int steps, pitch;
    __device__ int of_patches() const { return steps * pitch * STEP; }
    __device__ int of_row() const { return of_patches() + pitch; }
};

// Inner products of a warp's 16 positions u with its 8 · TILES positions of a row of v, four a thread for each of TILES
// groups.
template <class Precision, int TILES>
class PairProduct;

// A position's words of a step are, for t = 0 … 3, two terms each: big 2t, 2t + 1; big 2t + 8, 2t + 9; the same small.
// A group is a product of 16 × 8.
template <int STEPS, int TILES>
class PairProduct<F16x3<STEPS>, TILES> {
    // Of one or two steps, as the products take them, positions g and g + 8: all, where there are no more steps.
    static constexpr int HELD = STEPS == 1 ? 1 : 2;
    uint32_t big[HELD][4], small[HELD][4];
    const int* places;  // shared: how many words stand before the position of a slot
    int g, t;

    __device__ void hold(const PatchRows& patches, int step) {
#pragma unroll
        for (int i = 0; i < HELD; ++i)
            if (STEPS || step + i < patches.steps)
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    int before = places[slot(row)] + (step + i) * patches.pitch * STEP + 4 * t;
                    uint4 found = *reinterpret_cast<const uint4*>(patches.words + before);
                    big[i][row] = found.x;
                    big[i][row + 2] = found.y;
                    small[i][row] = found.z;
                    small[i][row + 2] = found.w;
                }
    }

    // The products of the steps held, of which there are one or two, the small ones first.
    __device__ void multiply(float (&sums)[4], const uint32_t* words, int of_step, bool both) const {
        uint4 other[2];
        other[0] = *reinterpret_cast<const uint4*>(words);
        if (both) other[1] = *reinterpret_cast<const uint4*>(words + of_step);
#pragma unroll
        for (int i = 0; i < HELD; ++i)
            if (i == 0 || both) {
                uint32_t b[2] = {other[i].x, other[i].y}, b_small[2] = {other[i].z, other[i].w};
                mma_f16(sums, small[i], b);
                mma_f16(sums, big[i], b_small);
            }
#pragma unroll
        for (int i = 0; i < HELD; ++i)
            if (i == 0 || both) {
                uint32_t b[2] = {other[i].x, other[i].y};
                mma_f16(sums, big[i], b);
            }
    }

public:
    static constexpr int ROWS = 2;  // positions u of a thread

    __device__ explicit PairProduct(const int* places) : places(places), g(threadIdx.x % 32 / 4), t(threadIdx.x % 4) {}
    __device__ int slot(int row) const { return g + 8 * row; }
    __device__ int column() const { return 2 * t; }
    __device__ static constexpr int row(int, int i) { return i / 2; }
    __device__ static constexpr int offset(int group, int i) { return 8 * group + i % 2; }

    __device__ void begin(const PatchRows& patches) {
        if constexpr (STEPS != 0) hold(patches, 0);
    }

    // Call take(group, products) for each group, of the positions of v that `words` begin with. Tensor cores cut sums
    // off where others round: those of two steps are made apart.
    template <class Take>
    __device__ void each(const PatchRows& patches, const uint32_t* words, Take take) {
        int of_step = patches.pitch * STEP;
        words += g * STEP + 4 * t;
#pragma unroll
        for (int group = 0; group < TILES; ++group, words += 8 * STEP) {
            float sums[4] = {};
            if constexpr (STEPS != 0) {
                multiply(sums, words, of_step, STEPS == 2);
            } else {
                for (int step = 0; step < patches.steps; step += 2) {
                    float part[4] = {};
                    hold(patches, step);
                    multiply(part, words + step * of_step, of_step, step + 1 < patches.steps);
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[i] += part[i];
                }
            }
            take(group, sums);
        }
    }
    // Of the values of a group, what stands beside their columns of v.
    __device__ static void beside(const uint32_t* first_column, int group, float (&found)[4]) {
        float2 two = *reinterpret_cast<const float2*>(first_column + 8 * group);
        found[0] = found[2] = two.x;
        found[1] = found[3] = two.y;
    }
};

// Without tensor cores: a thread has TILES positions u, a group each, and 4 of v. A step's words are [STEP, pitch].
template <int TILES>
class PairProduct<Fma, TILES> {
    const int* places;  // shared: how many words stand before the position of a slot
    int first_slot, first_column;

public:
    static constexpr int ROWS = TILES;

    __device__ explicit PairProduct(const int* places)
        : places(places), first_slot(threadIdx.x % 32 / (2 * TILES) * TILES),
          first_column(threadIdx.x % (2 * TILES) * 4) {}
    __device__ int slot(int row) const { return first_slot + row; }
    __device__ int column() const { return first_column; }
    __device__ static constexpr int row(int group, int) { return group; }
    __device__ static constexpr int offset(int, int i) { return i; }

    __device__ void begin(const PatchRows&) {}

    template <class Take>
    __device__ void each(const PatchRows& patches, const uint32_t* words, Take take) {
        const uint32_t* from[TILES];
        float sums[TILES][4] = {};
#pragma unroll
        for (int i = 0; i < TILES; ++i) from[i] = patches.words + places[slot(i)];
#pragma unroll 4
        for (int k = 0; k < patches.steps * STEP; ++k) {
            float4 b = *reinterpret_cast<const float4*>(words + k * patches.pitch + first_column);
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                float a = __uint_as_float(from[i][k * patches.pitch]);
                sums[i][0] = fmaf(a, b.x, sums[i][0]);
                sums[i][1] = fmaf(a, b.y, sums[i][1]);
                sums[i][2] = fmaf(a, b.z, sums[i][2]);
                sums[i][3] = fmaf(a, b.w, sums[i][3]);
            }
        }
#pragma unroll
        for (int group = 0; group < TILES; ++group) take(group, sums[group]);
    }
    __device__ static void beside(const uint32_t* first_column, int, float (&found)[4]) {
        float4 four = *reinterpret_cast<const float4*>(first_column);
        found[0] = four.x;
        found[1] = four.y;
        found[2] = four.z;
        found[3] = four.w;
    }
};

// Values n(u) κ(t(u, v)) n(v) from patches.
template <class Precision, class Kernel, bool TANGENT>
class ProductSource {
    static constexpr int TILES = TANGENT ? 2 : 4, COLUMNS = 8 * TILES;
    using Products = PairProduct<Precision, TILES>;
    // Shared memory: the rarely needed, too, so that registers suffice.
    const uint32_t** images;  // [2]: where the words of the first begin, and of the second
    uint32_t* rows;  // [2][of_row]: of v, this one and the next
    int* places;     // [slots]: how many words stand before a position's
    float* norms;    // [slots]
    int first_slot, first_column;
    Products product;
    Kernel kernel;
    const PairShape& s;
    int steps, pitch;

    __device__ PatchRows patches(int image) const { return {images[image], steps, pitch}; }

    __device__ void fetch(int y) const {
        PatchRows second = patches(1);
        const uint32_t* from = second.words + y * second.of_row();
        uint32_t* to = rows + y % 2 * second.of_row();
#pragma unroll 1
        for (int i = threadIdx.x * 4; i < second.of_row(); i += THREADS * 4)
            copy_async_16(reinterpret_cast<float*>(to + i), reinterpret_cast<const float*>(from + i), true);
        copy_commit();
    }

public:
    static constexpr int ROWS = Products::ROWS, GROUPS = TILES;

    __device__ ProductSource(
        const PairShape& s, const PatchRows& first, const PatchRows& second,
        const float* parameters, unsigned char*& shared)
        : images(take<const uint32_t*>(shared, 2)), rows(take<uint32_t>(shared, 2 * second.of_row())),
          places(take<int>(shared, s.slots)), norms(take<float>(shared, s.slots)),
          first_slot((threadIdx.x / 32 >> s.across_log2) * 16),
          first_column((threadIdx.x / 32 & ((1 << s.across_log2) - 1)) * COLUMNS), product(places + first_slot),
          kernel(parameters), s(s), steps(second.steps), pitch(second.pitch) {
        if (threadIdx.x == 0) {
            images[0] = first.words;
            images[1] = second.words;
        }
    }

    __device__ static constexpr int row(int group, int i) { return Products::row(group, i); }
    __device__ int slot(int row) const { return first_slot + product.slot(row); }
    __device__ int column() const { return first_column + product.column(); }
    __device__ static constexpr int offset(int group, int i) { return Products::offset(group, i); }
    __device__ float factor(int row) const { return norms[slot(row)]; }

    __device__ void begin(const Tile& tile) {
        fetch(s.top);
        PatchRows first = patches(0);
        Divisor by_columns(s.tile_columns);
#pragma unroll 1
        for (int i = threadIdx.x; i < s.slots; i += THREADS) {
            int y, x;
            bool exists = tile.place(i, by_columns, y, x);
            places[i] = y * first.of_row() + x * Precision::position_words;
            norms[i] = exists ? __uint_as_float(first.words[y * first.of_row() + first.of_patches() + x]) : 0;
        }
        __syncthreads();
        product.begin(first);
    }

    template <class Take>
    __device__ void values(int y, Take take) {
        copy_wait<0>();
        __syncthreads();  // this row has arrived, and all are done with the one before
        if (y + 1 < s.bottom) fetch(y + 1);
        __syncwarp();  // some lanes copy more than others, and the products are those of whole warps
        PatchRows first = patches(0);
        const uint32_t* row = rows + y % 2 * first.of_row();
        const uint32_t* row_norms = row + first.of_patches() + column();
        product.each(first, row + first_column * Precision::position_words, [&](int group, const float (&products)[4]) {
            float values[4], tangents[4], norms[4];
            product.beside(row_norms, group, norms);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float t = products[i], norm = norms[i];
                if constexpr (TANGENT) {
                    float relu, step;
                    relu_and_step(t, relu, step);
                    values[i] = norm * relu;
                    tangents[i] = norm * fmaf(t, step, relu);
                } else {
                    values[i] = norm * kernel(t);
                }
            }
            if constexpr (TANGENT || Kernel::BRANCHES) __syncwarp();  // before the products of the next group
            take(group, values, tangents);
        });
    }
};

template <class Precision, class Kernel, bool TANGENT, int TAPS, int SUBSAMPLING>
__global__ void __launch_bounds__(THREADS, 2) pair_products(
    const uint32_t* __restrict__ first_patches,   // [images, map_height, steps · pitch · STEP + pitch]
    const uint32_t* __restrict__ second_patches,
    const int* __restrict__ first_numbers,        // [pairs]: of their images
    const int* __restrict__ second_numbers,
    float* __restrict__ pooled,                   // [pairs, pooled_height, pooled_width, pooled_height, pooled_width]
    float* __restrict__ tangents,                 // the same; both hold zeros
    const float* __restrict__ parameters,         // of the kernel
    const float* __restrict__ weights,            // [taps_y + TAPS] of the pooling
    int map_height, int map_width, int pooled_height, int pooled_width, int taps_y, int origin_y, int origin_x,
    int top, int bottom, int left, int right, int tile_rows, int tile_columns, int reached, int across_log2, int slots, int stride,
    int steps, int pitch) {
    PairShape shape{map_height, map_width, pooled_height, pooled_width, taps_y, origin_y, origin_x,
                    top, bottom, left, right, tile_rows, tile_columns, reached, across_log2, slots, stride};
    unsigned char* shared = dynamic_shared();
    PairPooling<TAPS, SUBSAMPLING> pooling(shape, weights, shared);
    size_t x = first_numbers[blockIdx.x], y = second_numbers[blockIdx.x];
    PatchRows first{first_patches, steps, pitch}, second{second_patches, steps, pitch};
    first.words += x * map_height * first.of_row();
    second.words += y * map_height * second.of_row();
    ProductSource<Precision, Kernel, TANGENT> source(shape, first, second, parameters, shared);
    pool_pairs<TANGENT>(source, pooling, shape, pooled, tangents);
}
