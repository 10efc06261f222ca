// The patches P x(u) of maps as rows of a matrix, and their norms n(u).
//
// Tile. A few lanes of a warp take a run of positions of a row (lanes.cuh), and of each its patch row by row: in a map
// whose channels lie together such a row is patch_width · channels numbers one after the other, of which those in the map
// are taken.
//
// Registers: a sum of squares. Shared memory: none; the numbers that neighbours share come from L1.
// Global memory: the maps once (from L2), the patches once. Floor: the patches at the rate of memory.
#include "lanes.cuh"

template <int VECTOR>  // 4, where the channels are a multiple of it
__global__ void __launch_bounds__(THREADS, 4) extract_patches(
    const float* __restrict__ maps,  // [images, height, width, channels]
    float* __restrict__ patches,     // [images · map_height · map_width, patch_height · patch_width · channels]
    float* __restrict__ norms,       // [images · map_height · map_width]
    int height, int width, int channels,
    int patch_height, int patch_width,
    int above, int before,           // zeros above and left of the maps
    int map_height, int map_width,
    int images, int runs, int span, int bits) {
    Run run({images, map_height, map_width, runs, span, bits});
    int length = patch_width * channels, top = run.y - above;
    size_t row = static_cast<size_t>(run.image) * map_height + run.y;
#pragma unroll 1
    for (int i = 0; i < span; ++i) {
        bool there = run.x + i < run.end;
        int left = run.x + i - before;
        int first = max(0, -left) * channels, last = min(patch_width, width - left) * channels;
        size_t u = row * map_width + run.x + i;
        // Of the patch's first number, which is not in the maps where it is above or left of one.
        long long start = ((static_cast<long long>(run.image) * height + top) * width + left) * channels;
        float* to = patches + u * patch_height * length;
        float square = 0;
#pragma unroll 1
        for (int dy = 0; dy < (there ? patch_height : 0); ++dy, start += width * channels, to += length) {
            bool inside = top + dy >= 0 && top + dy < height;
#pragma unroll 1
            for (int k = run.lane * VECTOR; k < length; k += run.lanes * VECTOR) {
                Floats<VECTOR> numbers{};
                if (inside && k >= first && k < last) numbers = load<VECTOR>(maps + (start + k));
                store(to + k, numbers);
#pragma unroll
                for (int j = 0; j < VECTOR; ++j) square = fmaf(numbers.of[j], numbers.of[j], square);
            }
        }
        sum_over_lanes(run.lanes, square);
        if (there && run.lane == 0) norms[u] = sqrtf(square);
    }
}
