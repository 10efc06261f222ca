// Gradients by patches added where the patches were taken from: the gradient by the maps, with the part of it that comes by
// way of the patches' norms, x(v) times the sum of (∂/∂n)/n over the patches that hold v.
//
// Tile. A few lanes of a warp take a run of positions v of a row (lanes.cuh), VECTOR channels a lane at a time, which gathers
// them from the patches that hold v: no atomics, a sum in the order of a patch's positions.
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
    int images, int runs, int span, int bits) {
    Run run({images, height, width, runs, span, bits});
    // Row y is row dy of the patches of row y + above − dy, one of the map's rows.
    int y = run.y + above, first_dy = max(0, y - map_height + 1), last_dy = min(patch_height, y + 1);
    size_t row = static_cast<size_t>(run.image) * height + run.y;
#pragma unroll 1
    for (int x = run.x; x < run.end; ++x) {
        int right = x + before, first_dx = max(0, right - map_width + 1), last_dx = min(patch_width, right + 1);
#pragma unroll 1
        for (int channel = run.lane * VECTOR; channel < channels; channel += run.lanes * VECTOR) {
            Floats<VECTOR> sum{};
            float box = 0;
#pragma unroll 1
            for (int dy = first_dy; dy < last_dy; ++dy) {
                size_t of_row = (static_cast<size_t>(run.image) * map_height + y - dy) * map_width + right;
#pragma unroll 1
                for (int dx = first_dx; dx < last_dx; ++dx) {
                    size_t u = of_row - dx;
                    size_t term = ((u * patch_height + dy) * patch_width + dx) * channels + channel;
                    Floats<VECTOR> numbers = load<VECTOR>(by_patches + term);
#pragma unroll
                    for (int j = 0; j < VECTOR; ++j) sum.of[j] += numbers.of[j];
                    box += by_norm[u];
                }
            }
            size_t place = (row * width + x) * channels + channel;
            Floats<VECTOR> own = load<VECTOR>(maps + place);
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) sum.of[j] = fmaf(box, own.of[j], sum.of[j]);
            store(by_maps + place, sum);
        }
    }
}
