// For each unit patch the anchor of largest cosine, the first of equal ones, and that cosine: k-means' assignment.
// The matrix of all cosines, patches × anchors, never exists.
//
// Tile. A block has 128 patches and goes through all anchors, 64 at a time; 32 terms of both lie in shared memory,
// twice, since the next ones arrive while these are used (product.cuh).
//
// Registers: the products of 128 × 64, 32 a thread; of each of its patches, 4 or 8, the best of the thread's anchors.
// Shared memory: two stages of patches and anchors, 55 KiB: two blocks a multiprocessor from 8.0 on, one on 7.5. In the
// end, in their place, the best of half of the anchors.
// Global memory: the patches once for each 64 anchors, the anchors once for each 128 patches (both from L2).
//
// Arithmetic: 2 d FLOP a patch and anchor. Floor: that at the rate of the precision.
#include "product.cuh"

constexpr int PATCH_STRIDE = TERMS + 4;   // of a patch in shared memory: 8 patches × 4 terms meet 32 banks

// An anchor and its cosine with a patch.
struct Best {
    float cosine = -3.0e38f;  // below any
    int anchor = 0;
    // Of equal ones the first.
    __device__ void take(float other, int other_anchor) {
        if (other > cosine || (other == cosine && other_anchor < anchor)) {
            cosine = other;
            anchor = other_anchor;
        }
    }
};

template <class Precision>
__global__ void __launch_bounds__(THREADS, 2) nearest_anchor(
    const float* __restrict__ patches,     // [count, size]
    const uint32_t* __restrict__ anchors,  // [slabs, stages, Precision::words, ANCHORS]
    long long* __restrict__ nearest,       // [count]
    float* __restrict__ cosine,            // [count]
    long long count, int size, int clusters) {
    unsigned char* shared = dynamic_shared();
    constexpr int tile = PATCHES * PATCH_STRIDE, words = Precision::words * STRIDE;
    float* stage_patches = reinterpret_cast<float*>(shared);                          // [2][tile]
    uint32_t* stage_anchors = reinterpret_cast<uint32_t*>(stage_patches + 2 * tile);  // [2][words]
    int* at = reinterpret_cast<int*>(stage_anchors + 2 * words);                      // [PATCHES]
    int* offset = at + PATCHES;                                                       // [TERMS]
    for (int p = threadIdx.x; p < PATCHES; p += THREADS) at[p] = p * PATCH_STRIDE * sizeof(float);
    for (int i = threadIdx.x; i < TERMS; i += THREADS) offset[i] = i * sizeof(float);

    long long first = static_cast<long long>(blockIdx.x) * PATCHES;
    int stages = (size + TERMS - 1) / TERMS, slabs = (clusters + ANCHORS - 1) / ANCHORS;
    // A stage is a slab of anchors and 32 terms; the stages of all slabs follow one another.
    auto fetch = [&](int number, int buffer) {
        int term = number % stages * TERMS;
        bool by_four = size % 4 == 0;
        int step = by_four ? 4 : 1, pieces = TERMS / step;
        for (int i = threadIdx.x; i < PATCHES * pieces; i += THREADS) {
            int p = i / pieces, k = term + i % pieces * step;
            bool inside = first + p < count && k < size;
            float* to = stage_patches + buffer * tile + p * PATCH_STRIDE + i % pieces * step;
            const float* from = inside ? patches + (first + p) * size + k : patches;
            if (by_four)
                copy_async_16(to, from, inside);
            else
                copy_async_4(to, from, inside);
        }
        const float* from =
            reinterpret_cast<const float*>(anchors + static_cast<size_t>(number) * Precision::words * ANCHORS);
        float* to = reinterpret_cast<float*>(stage_anchors + buffer * words);
        for (int i = threadIdx.x * 4; i < Precision::words * ANCHORS; i += THREADS * 4)
            copy_async_16(to + i / ANCHORS * STRIDE + i % ANCHORS, from + i, true);
    };

    using Products = Product<Precision>;
    Products product;
    Best best[Products::ROWS];
    fetch(0, 0);
    copy_commit();
    for (int number = 0; number < slabs * stages; ++number) {
        if (number + 1 < slabs * stages) fetch(number + 1, (number + 1) % 2);
        copy_commit();
        copy_wait<1>();  // this stage's
        __syncthreads();
        product.add(stage_patches + number % 2 * tile, at, offset, stage_anchors + number % 2 * words);
        if ((number + 1) % stages == 0) {  // all terms of a slab of anchors
            int slab = number / stages * ANCHORS;
            product.each([&](int i, int) {
                return [&best, i, slab, clusters](int anchor, float value) {
                    if (slab + anchor < clusters) best[i].take(value, slab + anchor);
                };
            });
            product.clear();
        }
        __syncthreads();  // the buffers may be filled again
    }

#pragma unroll
    for (int i = 0; i < Products::ROWS; ++i)
#pragma unroll
        for (int bits = 1; bits < Products::LANES_ACROSS; bits *= 2) {
            float other = __shfl_xor_sync(0xffffffffu, best[i].cosine, bits);
            best[i].take(other, __shfl_xor_sync(0xffffffffu, best[i].anchor, bits));
        }
    float* cosines = stage_patches;                             // [PATCHES], of the warps to the right
    int* numbers = reinterpret_cast<int*>(cosines + PATCHES);   // [PATCHES]
    bool left = threadIdx.x / 32 % Products::WARPS_ACROSS == 0, leads = threadIdx.x % Products::LANES_ACROSS == 0;
    if (Products::WARPS_ACROSS > 1) {
        if (leads && !left)
#pragma unroll
            for (int i = 0; i < Products::ROWS; ++i) {
                cosines[product.patch(i)] = best[i].cosine;
                numbers[product.patch(i)] = best[i].anchor;
            }
        __syncthreads();
    }
    if (leads && left)
#pragma unroll
        for (int i = 0; i < Products::ROWS; ++i) {
            int p = product.patch(i);
            if (Products::WARPS_ACROSS > 1) best[i].take(cosines[p], numbers[p]);
            if (first + p < count) {
                nearest[first + p] = best[i].anchor;
                cosine[first + p] = best[i].cosine;
            }
        }
}
