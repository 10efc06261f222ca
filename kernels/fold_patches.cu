// Gradients by patches added where the patches were taken from: the gradient by the maps, with the part of it that comes by
// way of the patches' norms, x(v) times the sum of (∂/∂n)/n over the patches that hold v.
//
// Tile. A thread has VECTOR channels of one position of the maps, and gathers them from the patches that hold it: no atomics,
// a sum in the order of a patch's positions.
//
// Registers: VECTOR sums and one. Shared memory: none. Global memory: the patches once, the maps once, the result once.
// Floor: the patches at the rate of memory.
#include "lanes.cuh"

template <int VECTOR>  // 4, where the channels are a multiple of it
__global__ void __launch_bounds__(THREADS, 4) fold_patches(
    const float* __restrict__ by_patches,  // [images · map_height · map_width, patch_height · patch_width · channels]
    const float* __restrict__ by_norm,     // [images · map_height · map_width]: (∂/∂n)/n
    const float* __restrict__ maps,        // [images, height, width, channels]
    float* __restrict__ by_maps,           // [images, height, width, channels]
    int height, int width, int channels,
    int patch_height, int patch_width,
    int above, int before,                 // zeros above and left of the maps
    int map_height, int map_width,
    int pixels) {                          // images · height · width
    int pieces = channels / VECTOR;
    size_t number = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (number >= static_cast<size_t>(pixels) * pieces) return;
    int pixel = static_cast<int>(number / pieces), channel = static_cast<int>(number % pieces) * VECTOR;
    int x = pixel % width, rest = pixel / width, y = rest % height, image = rest / height;
    Floats<VECTOR> sum{};
    float box = 0;
#pragma unroll 1
    for (int dy = 0; dy < patch_height; ++dy) {
        int v = y + above - dy;  // the row of the patches of which this is row dy
        if (v < 0 || v >= map_height) continue;
#pragma unroll 1
        for (int dx = 0; dx < patch_width; ++dx) {
            int u = x + before - dx;
            if (u < 0 || u >= map_width) continue;
            size_t position = (static_cast<size_t>(image) * map_height + v) * map_width + u;
            size_t term = ((position * patch_height + dy) * patch_width + dx) * channels + channel;
            Floats<VECTOR> numbers = load<VECTOR>(by_patches + term);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) sum.of[k] += numbers.of[k];
            box += by_norm[position];
        }
    }
    size_t place = static_cast<size_t>(pixel) * channels + channel;
    Floats<VECTOR> own = load<VECTOR>(maps + place);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sum.of[k] = fmaf(box, own.of[k], sum.of[k]);
    store(by_maps + place, sum);
}
