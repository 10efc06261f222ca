// The product of a tile of patches with a slab of anchors, shared by `encode` and `nearest_anchor`.
//
// A block of 256 threads computes 128 × 64 inner products: patches (rows) with anchors (columns). Both operands
// lie in shared memory, a part of the terms of a patch at a time. The patches are never laid out as a matrix: term k of
// patch p lies at[p] + offset[k] bytes into the slab, a piece of the input map, so that all patches that hold a
// position read one copy of it.
//
// Registers: 32 sums a thread, and in float32 16 more of a stage. Shared memory: what the caller lays out.
// Arithmetic: 2 · 128 · 64 FLOP a term.
// Per term and warp 18/8 shared loads feed 8/8 (TF32) tensor-core instructions of 2,048 FLOP: the tensor cores wait
// for shared memory unless they do three products a term, as in float32.
#pragma once
#include "block.cuh"

constexpr int PATCHES = 128;        // of a tile
constexpr int ANCHORS = 64;         // of a slab
constexpr int TERMS = 32;           // of a stage: what is copied to shared memory at once
constexpr int STRIDE = ANCHORS + 8; // of a row of anchors in shared memory: 4 rows × 8 columns meet 32 banks

// How the products are computed. `words` rows of 32-bit words hold the anchors' part of a stage.
struct Fma {  // plain float32 arithmetic, for any GPU
    static constexpr int words = TERMS;
};
struct Tf32x3 {  // float32 by three products of TF32 halves: a = big + small, a b ≈ big big' + big small' + small big'
    static constexpr int words = TERMS;
};
struct Tf32 {  // operands rounded to 10 bits of mantissa
    static constexpr int words = TERMS;
};
struct Bf16 {  // operands rounded to 7 bits of mantissa; two terms a word
    static constexpr int words = TERMS / 2;
};

// What stands so many bytes into the slab.
__device__ inline float read(const float* slab, int bytes) {
    return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(slab) + bytes);
}

template <class Precision>
class Product {
    // Warps stand 4 × 2: each has 32 patches and 32 anchors, as 2 × 4 tiles of 16 × 8.
    float sums[2][4][4];
    int lane, first_patch, first_anchor;

public:
    static constexpr int ROWS = 4;          // patches of which a thread has products
    static constexpr int LANES_ACROSS = 4;  // neighbours in a warp that have the same patches, and other anchors
    static constexpr int WARPS_ACROSS = 2;  // and warps

    __device__ Product() {
        int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        first_patch = warp / 2 * 32;
        first_anchor = warp % 2 * 32;
        clear();
    }

    __device__ void clear() {
        for (auto& row : sums)
            for (auto& tile : row)
                for (float& sum : tile) sum = 0;
    }

    // Add a stage: `at` [PATCHES] and `offset` [TERMS] are bytes into the slab, `anchors` [words][STRIDE].
    __device__ void add(const float* slab, const int* at, const int* offset, const uint32_t* anchors);

    // The patch of a row.
    __device__ int patch(int i) const { return first_patch + 8 * i + lane / 4; }

    // For each row, call of_row(row, patch), and what that returns with (anchor, product), anchor after anchor.
    template <class OfRow>
    __device__ void each(OfRow of_row) const {
        int column = lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            auto visit = of_row(i, patch(i));
#pragma unroll
            for (int j = 0; j < 8; ++j)
                visit(first_anchor + j / 2 * 8 + column + j % 2, sums[i / 2][j / 2][i % 2 * 2 + j % 2]);
        }
    }
};

// The bits of a float, of which a TF32 operand keeps those of the nearest number; NaN stays what it is.
__device__ inline uint32_t rounded(float x) { return __float_as_uint(x) + (x == x ? 0x1000u : 0u); }

template <>
__device__ inline void Product<Tf32>::add(
    const float* slab, const int* at, const int* offset, const uint32_t* anchors) {
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < TERMS; k += 8) {
        uint32_t a[2][4], b[4][2];
        int near = offset[k + t], far = offset[k + t + 4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int upper = at[first_patch + 16 * i + g], lower = at[first_patch + 16 * i + g + 8];
            a[i][0] = rounded(read(slab, upper + near));
            a[i][1] = rounded(read(slab, lower + near));
            a[i][2] = rounded(read(slab, upper + far));
            a[i][3] = rounded(read(slab, lower + far));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {  // the host has rounded the anchors
            const uint32_t* column = anchors + first_anchor + 8 * j + g;
            b[j][0] = column[(k + t) * STRIDE];
            b[j][1] = column[(k + t + 4) * STRIDE];
        }
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) mma_tf32(sums[i][j], a[i], b[j]);
    }
}

// A float as two TF32 numbers: its upper 11 bits, and the nearest to the rest, which has 13. Rounding the former would
// take one bit less of the latter, and twice as many instructions.
__device__ inline void split(float x, uint32_t& big, uint32_t& small) {
    big = __float_as_uint(x) & 0xffffe000u;
    small = __float_as_uint(x - __uint_as_float(big)) + 0x1000u;  // of NaN, `big` stays
}

// Tensor cores cut a sum off where ordinary additions round it, always towards zero: over thousands of terms that
// adds up. The sums of a stage are therefore made apart, 32 terms of one half of the patches, and added as others are.
template <>
__device__ inline void Product<Tf32x3>::add(
    const float* slab, const int* at, const int* offset, const uint32_t* anchors) {
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        int upper = at[first_patch + 16 * i + g], lower = at[first_patch + 16 * i + g + 8];
        float part[4][4] = {};
#pragma unroll 2  // by 4, registers would not suffice
        for (int k = 0; k < TERMS; k += 8) {
            uint32_t a[4], a_small[4];
            int near = offset[k + t], far = offset[k + t + 4];
            split(read(slab, upper + near), a[0], a_small[0]);
            split(read(slab, lower + near), a[1], a_small[1]);
            split(read(slab, upper + far), a[2], a_small[2]);
            split(read(slab, lower + far), a[3], a_small[3]);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                uint32_t b[2], b_small[2];
                const uint32_t* column = anchors + first_anchor + 8 * j + g;
                split(__uint_as_float(column[(k + t) * STRIDE]), b[0], b_small[0]);
                split(__uint_as_float(column[(k + t + 4) * STRIDE]), b[1], b_small[1]);
                mma_tf32(part[j], a_small, b);  // the small products first
                mma_tf32(part[j], a, b_small);
                mma_tf32(part[j], a, b);
            }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int r = 0; r < 4; ++r) sums[i][j][r] += part[j][r];
    }
}

template <>
__device__ inline void Product<Bf16>::add(
    const float* slab, const int* at, const int* offset, const uint32_t* anchors) {
    int g = lane / 4, t = lane % 4;
#pragma unroll 1  // by 2, registers would not suffice
    for (int k = 0; k < TERMS; k += 16) {
        uint32_t a[2][4];
        int near = k + 2 * t, far = near + 8;
        int offsets[4] = {offset[near], offset[near + 1], offset[far], offset[far + 1]};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int upper = at[first_patch + 16 * i + g], lower = at[first_patch + 16 * i + g + 8];
            a[i][0] = to_bf16_pair(read(slab, upper + offsets[0]), read(slab, upper + offsets[1]));
            a[i][1] = to_bf16_pair(read(slab, lower + offsets[0]), read(slab, lower + offsets[1]));
            a[i][2] = to_bf16_pair(read(slab, upper + offsets[2]), read(slab, upper + offsets[3]));
            a[i][3] = to_bf16_pair(read(slab, lower + offsets[2]), read(slab, lower + offsets[3]));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {  // pairs of terms, made by the host
            const uint32_t* column = anchors + first_anchor + 8 * j + g;
            uint32_t b[2] = {column[(k / 2 + t) * STRIDE], column[(k / 2 + t + 4) * STRIDE]};
#pragma unroll
            for (int i = 0; i < 2; ++i) mma_bf16(sums[i][j], a[i], b);
        }
    }
}

// Without tensor cores: a thread has 8 patches and 4 anchors.
template <>
class Product<Fma> {
    float sums[8][4];
    int first_patch, first_anchor;

public:
    static constexpr int ROWS = 8, LANES_ACROSS = 16, WARPS_ACROSS = 1;

    __device__ Product() : first_patch(threadIdx.x / 16 * 8), first_anchor(threadIdx.x % 16 * 4) { clear(); }

    __device__ void clear() {
        for (auto& row : sums)
            for (float& sum : row) sum = 0;
    }

    __device__ void add(const float* slab, const int* at, const int* offset, const uint32_t* anchors) {
        int patch[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) patch[i] = at[first_patch + i];
#pragma unroll 8
        for (int k = 0; k < TERMS; ++k) {
            int term = offset[k];
            const uint32_t* row = anchors + k * STRIDE + first_anchor;
            float b[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) b[j] = __uint_as_float(row[j]);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float a = read(slab, patch[i] + term);
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a, b[j], sums[i][j]);
            }
        }
    }

    __device__ int patch(int i) const { return first_patch + i; }

    template <class OfRow>
    __device__ void each(OfRow of_row) const {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            auto visit = of_row(i, patch(i));
#pragma unroll
            for (int j = 0; j < 4; ++j) visit(first_anchor + j, sums[i][j]);
        }
    }
};
