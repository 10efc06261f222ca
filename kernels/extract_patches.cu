// The patches P x(u) of maps as rows of a matrix, and their norms n(u).
//
// Tile. A position is taken by `lanes` threads of a warp, a power of two of them, a row of its patch at a time: in a map
// whose channels lie together it is one run of patch_width · channels numbers, of which those in the map are taken.
//
// Registers: a sum of squares. Shared memory: none; the numbers that neighbours share come from L1.
// Global memory: the maps once (from L2), the patches once. Floor: the patches at the rate of memory.
#include "lanes.cuh"

template <int VECTOR>  // 4, where the channels are a multiple of it
__global__ void __launch_bounds__(THREADS, 4) extract_patches(
    const float* __restrict__ maps,  // [images, height, width, channels]
    float* __restrict__ patches,     // [positions, patch_height · patch_width · channels]
    float* __restrict__ norms,       // [positions]
    int height, int width, int channels,
    int patch_height, int patch_width,
    int above, int before,           // zeros above and left of the maps
    int map_height, int map_width,
    int positions, int lanes) {
    Lane lane(lanes);
    bool there = lane.position < positions;
    int u = there ? lane.position : 0, x = u % map_width - before, rest = u / map_width;
    int y = rest % map_height - above, image = rest / map_height;
    int run = patch_width * channels, first = max(0, -x) * channels, last = min(patch_width, width - x) * channels;
    float square = 0;
#pragma unroll 1
    for (int dy = 0; dy < (there ? patch_height : 0); ++dy) {
        bool inside = y + dy >= 0 && y + dy < height;
        // Of the row's first number, which is not in the map where x < 0.
        long long start = ((static_cast<long long>(image) * height + y + dy) * width + x) * channels;
        float* to = patches + (static_cast<size_t>(u) * patch_height + dy) * run;
#pragma unroll 1
        for (int i = lane.number * VECTOR; i < run; i += lanes * VECTOR) {
            Floats<VECTOR> numbers{};
            if (inside && i >= first && i < last) numbers = load<VECTOR>(maps + (start + i));
            store(to + i, numbers);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) square = fmaf(numbers.of[k], numbers.of[k], square);
        }
    }
    square = sum_of_lanes(square, lanes);
    if (there && lane.number == 0) norms[u] = sqrtf(square);
}
