// One layer of a convolutional kernel network, from the input map to the pooled map, before the projection:
// patches P x(u), norms n(u), cosines t_j(u) with the anchors, n(u) κ(t_j(u)), Gaussian pooling, in one pass.
//
// Tile. A block has one image, one slab of 64 anchors and `tile_rows` × `tile_columns` pooled positions (the whole
// map where it is at most 128 wide and there are blocks enough), and walks down the rows of the map before
// pooling, `rows` of them at a time: a chunk of at most 128 positions, whose products with the anchors are one
// matrix product (product.cuh). Rows that two tiles need are computed by both: the halo of the pooling, 2s+1 taps at
// distances of s. Of maps so small that a chunk would not be full, a block has a group of images at once.
//
// Registers: the chunk's products, 32 a thread.
// Shared memory: the piece of the input map under the chunk, `part` channels at a time (one copy, read by all
// patches that hold it); the anchors of 32 terms, twice, since the next ones arrive while these are used; then,
// in the place of the input, the chunk of the unpooled map; the sums of the pooled rows that are not complete, a ring.
// Global memory: the input once a slab and the rows and columns that patches of two chunks share once more, the
// anchors once a chunk (from L2), the pooled map once. The map before pooling, s² times larger, never leaves the
// multiprocessor.
//
// Arithmetic: 2 h w c FLOP a position and anchor, of patches h × w, times the halo. Floor: the larger of that at the rate of the
// precision and of the input and output at the rate of memory; three products a term in float32 (Tf32x3).
#include "dot_product.cuh"
#include "product.cuh"

constexpr int MAP_STRIDE = ANCHORS + 4;  // of a position of the unpooled chunk

template <class Precision, class Kernel>
__global__ void __launch_bounds__(THREADS, 2) encode(
    const float* __restrict__ maps,        // [images, height, width, channels]
    float* __restrict__ pooled,            // [images, pooled_height, pooled_width, filters]
    const uint32_t* __restrict__ anchors,  // [slabs, parts · stages, Precision::words, ANCHORS]
    const int* __restrict__ offsets,       // [stages · TERMS]: where a patch's terms lie in the piece of input
    const float* __restrict__ parameters,  // of the kernel
    const float* __restrict__ weights,     // [taps_y + taps_x] of the pooling
    int height, int width, int channels, int filters,
    int patch_height, int patch_width,
    int above, int before,                 // zeros above and left of the map
    int map_height, int map_width,         // before pooling
    int pooled_height, int pooled_width,
    int subsampling, int taps_y, int taps_x,
    int origin_y, int origin_x,            // of the first pooled position's taps
    int part, int channel_stride,          // channels at a time; distance of two positions in shared memory
    int parts, int stages,                 // stages a part
    int rows, int columns,                 // of a chunk
    int tile_columns,                      // pooled ones
    int ring,                              // pooled rows that are open at once
    int group,                             // images of a block
    int tile_rows,                         // pooled ones
    int images,
    float norm_floor, int scale_is_floored) {
    int slab_width = columns + patch_width - 1, piece = (rows + patch_height - 1) * slab_width, cells = group * piece;
    int positions = rows * columns;  // of one image in a chunk
    Divisor by_piece(piece), by_slab_width(slab_width), by_positions(positions), by_columns(columns);
    unsigned char* shared = dynamic_shared();
    float* slab = take<float>(shared, max(cells * channel_stride, PATCHES * MAP_STRIDE));
    float* unpooled = slab;
    float* squares = take<float>(shared, cells);
    uint32_t* stage_anchors = take<uint32_t>(shared, 2 * Precision::words * STRIDE);
    int* at = take<int>(shared, PATCHES);
    int* offset = take<int>(shared, stages * TERMS);
    float* inverse = take<float>(shared, PATCHES);
    float* scale = take<float>(shared, PATCHES);
    float* weight_y = take<float>(shared, taps_y);
    float* weight_x = take<float>(shared, taps_x);
    float* open = take<float>(shared, group * ring * tile_columns * ANCHORS);

    int slabs = (filters + ANCHORS - 1) / ANCHORS;
    int tiles_y = (pooled_height + tile_rows - 1) / tile_rows;
    int tiles_x = (pooled_width + tile_columns - 1) / tile_columns;
    int block = blockIdx.x;  // the slabs of one image run side by side: its input is read from L2
    int anchor_slab = block % slabs;
    block /= slabs;
    int first_column = block % tiles_x * tile_columns;
    block /= tiles_x;
    int first_row = block % tiles_y * tile_rows;
    int first_image = block / tiles_y * group;
    int last_row = min(first_row + tile_rows, pooled_height);
    int last_column = min(first_column + tile_columns, pooled_width);
    // The part of the map before pooling that the tile's taps reach.
    int top = max(0, origin_y + first_row * subsampling);
    int bottom = min(map_height, origin_y + (last_row - 1) * subsampling + taps_y);
    int left = max(0, origin_x + first_column * subsampling);
    int right = min(map_width, origin_x + (last_column - 1) * subsampling + taps_x);

    // The cell of the piece of input in which the patch of a chunk's position p begins.
    auto corner_cell = [&](int p) {
        int member = by_positions.quotient(p), rest = by_positions.remainder(p);
        return member * piece + by_columns.quotient(rest) * slab_width + by_columns.remainder(rest);
    };
    for (int p = threadIdx.x; p < PATCHES; p += THREADS)  // what is beyond the chunk computes its first patch
        at[p] = p < group * positions ? corner_cell(p) * channel_stride * sizeof(float) : 0;
    for (int i = threadIdx.x; i < stages * TERMS; i += THREADS) offset[i] = offsets[i] * sizeof(float);
    for (int i = threadIdx.x; i < taps_y; i += THREADS) weight_y[i] = weights[i];
    for (int i = threadIdx.x; i < taps_x; i += THREADS) weight_x[i] = weights[taps_y + i];
    for (int i = threadIdx.x; i < group * ring * tile_columns * ANCHORS; i += THREADS) open[i] = 0;

    const uint32_t* slab_anchors =
        anchors + static_cast<size_t>(anchor_slab) * parts * stages * Precision::words * ANCHORS;
    auto fetch_anchors = [&](int number, int buffer) {
        const float* from =
            reinterpret_cast<const float*>(slab_anchors + static_cast<size_t>(number) * Precision::words * ANCHORS);
        float* to = reinterpret_cast<float*>(stage_anchors + buffer * Precision::words * STRIDE);
        for (int i = threadIdx.x * 4; i < Precision::words * ANCHORS; i += THREADS * 4)
            copy_async_16(to + i / ANCHORS * STRIDE + i % ANCHORS, from + i, true);
    };
    // The input under the chunk that begins in row u, channels [first, first + part); zeros outside the map.
    auto fetch_input = [&](int u, int first) {
        bool by_four = channels % 4 == 0;  // then `part` is a multiple of four too
        int step = by_four ? 4 : 1, copies = part / step;
        Divisor by_copies(copies);
        for (int i = threadIdx.x; i < cells * copies; i += THREADS) {
            int cell = by_copies.quotient(i), channel = by_copies.remainder(i) * step;
            int image = first_image + by_piece.quotient(cell), place = by_piece.remainder(cell);
            int y = u - above + by_slab_width.quotient(place), x = left - before + by_slab_width.remainder(place);
            bool inside =
                image < images && y >= 0 && y < height && x >= 0 && x < width && first + channel < channels;
            size_t pixel = (static_cast<size_t>(image) * height + y) * width + x;
            const float* from = inside ? maps + pixel * channels + first + channel : maps;
            if (by_four)
                copy_async_16(slab + cell * channel_stride + channel, from, inside);
            else
                copy_async_4(slab + cell * channel_stride + channel, from, inside);
        }
    };

    Product<Precision> product;
    Kernel kernel(parameters);
    for (int u = top; u < bottom; u += rows) {
        product.clear();
        for (int number = 0; number < parts; ++number) {
            __syncthreads();  // all are done with what stood in the place of the input
            fetch_input(u, number * part);
            fetch_anchors(number * stages, 0);
            copy_commit();
            for (int stage = 0; stage < stages; ++stage) {
                if (stage + 1 < stages) fetch_anchors(number * stages + stage + 1, (stage + 1) % 2);
                copy_commit();
                copy_wait<1>();  // the anchors of this stage and what came before them
                __syncthreads();
                if (stage == 0)
                    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
                        float sum = number == 0 ? 0 : squares[cell];
                        for (int channel = 0; channel < part; ++channel) {
                            float x = slab[cell * channel_stride + channel];
                            sum = fmaf(x, x, sum);
                        }
                        squares[cell] = sum;
                    }
                __syncwarp();  // the products are those of whole warps
                product.add(slab, at, offset + stage * TERMS, stage_anchors + stage % 2 * Precision::words * STRIDE);
                __syncthreads();  // the buffer may be filled again
            }
        }
        for (int p = threadIdx.x; p < group * positions; p += THREADS) {
            const float* corner = squares + corner_cell(p);
            float square = 0;
            for (int dy = 0; dy < patch_height; ++dy)
                for (int dx = 0; dx < patch_width; ++dx) square += corner[dy * slab_width + dx];
            float norm = sqrtf(square), floored = norm < norm_floor ? norm_floor : norm;  // NaN stays
            inverse[p] = 1 / floored;
            scale[p] = scale_is_floored ? floored : norm;
        }
        __syncthreads();
        product.each([&](int, int p) {
            bool used = p < group * positions;
            float factor = used ? inverse[p] : 0, norm = used ? scale[p] : 0;
            float* row = unpooled + p * MAP_STRIDE;
            return [=](int anchor, float value) { row[anchor] = norm * kernel(value * factor); };
        });
        __syncthreads();
        // A thread has one anchor and some pooled columns of some images: nobody else touches their sums.
        int anchor = threadIdx.x % ANCHORS, filter = anchor_slab * ANCHORS + anchor;
        int across = last_column - first_column;
        Divisor by_across(across), by_ring(ring);
        for (int task = threadIdx.x / ANCHORS; task < group * across; task += THREADS / ANCHORS) {
            int member = by_across.quotient(task), j = by_across.remainder(task);
            size_t image = first_image + member;
            int start = origin_x + (first_column + j) * subsampling;  // of this column's taps
            int first_tap = max(0, left - start), last_tap = min(taps_x, right - start);
            int next = max(first_row, floor_divide(u - origin_y - taps_y, subsampling) + 1);
            float* column = open + (member * ring * tile_columns + j) * ANCHORS + anchor;
            for (int y = u; y < min(u + rows, bottom); ++y) {
                int position = member * positions + (y - u) * columns + start - left;  // of tap 0 in the chunk
                float sum = 0;
                for (int tap = first_tap; tap < last_tap; ++tap)
                    sum = fmaf(weight_x[tap], unpooled[(position + tap) * MAP_STRIDE + anchor], sum);
                // Pooled rows `next` … are open; those whose taps begin below y do not count yet.
                for (int i = next; i < last_row && origin_y + i * subsampling <= y; ++i) {
                    float& total = column[by_ring.remainder(i) * tile_columns * ANCHORS];
                    total = fmaf(weight_y[y - origin_y - i * subsampling], sum, total);
                }
                for (; next < last_row &&
                       (y == bottom - 1 || origin_y + next * subsampling + taps_y - 1 <= y);
                     ++next) {  // complete
                    float& total = column[by_ring.remainder(next) * tile_columns * ANCHORS];
                    if (filter < filters && image < images)
                        pooled[((image * pooled_height + next) * pooled_width + first_column + j) * filters + filter] =
                            total;
                    total = 0;
                }
            }
        }
    }
}
