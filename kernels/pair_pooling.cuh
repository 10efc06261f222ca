// Pooling of a map of pairs along both images: A G Aᵀ without G, shared by `pair_products` and `pair_sums`.
//
// u is a position of the first image's map, v of the second's. A block has one pair of images. It takes `tile_rows` ×
// `tile_columns` positions u at a time and walks down the rows of v. A source gives the values of a row of v for all
// of the tile's u, some a thread; the weighted sums of rows, for the pooled rows of v that are not complete, stay
// where the values are made, in registers: a row of v belongs to three of them at most, whatever the pooling
// (taps ≤ 2s + 1). Once a pooled row is complete, it goes through shared memory, where it is pooled along the columns
// of u, the columns of v and the rows of u, in this order, and is added to the pooled map in global memory.
//
// Registers: three sums for each of a thread's values, twice that with tangents, and what the source holds.
// Shared memory: one row of v for the tile's u before pooling, and after each of two steps.
// Global memory: additions to the pooled map (in L2), once for each tile of which it has taps.
// Arithmetic: up to three multiplications a value in registers; in shared memory (2s+1)/s² for the columns of u, 1/s of
// that for those of v; what is read there serves four pooled positions at once. TAPS and SUBSAMPLING are known to the
// compiler: without, finding one's way would take longer than the sums.
#pragma once
#include "block.cuh"
#include "dot_product.cuh"

constexpr int OPEN = 3;  // pooled rows to which a row may belong

struct PairShape {
    int map_height, map_width;    // of both images before pooling
    int pooled_height, pooled_width;
    int taps_y;
    int origin_y, origin_x;       // of the first pooled position's taps
    int top, bottom, left, right; // the part of the map that taps reach
    int tile_rows, tile_columns;  // of positions u at a time
    int reached;                  // pooled columns of u that a tile has taps of, at most
    int across_log2;              // of how many warps stand side by side, along a row of v
    int slots;                    // for positions u, some of which may stay empty
    int stride;                   // of a position u in the row that goes through shared memory
};

// Some positions of the first image.
struct Tile {
    int y, x, rows, columns;
    // Which of them a slot holds, or false: it is empty, and the first one stands in for it.
    __device__ bool place(int slot, const Divisor& by_columns, int& row, int& column) const {
        row = by_columns.quotient(slot);
        column = by_columns.remainder(slot);
        bool exists = row < rows && column < columns;
        row = y + (exists ? row : 0);
        column = x + (exists ? column : 0);
        return exists;
    }
};

// The sums of pooled rows that are not complete, in groups of four.
template <int GROUPS>
struct OpenRows {
    float sums[OPEN][GROUPS][4];

    __device__ OpenRows() {
        for (auto& open : sums)
            for (auto& group : open)
                for (float& sum : group) sum = 0;
    }

    __device__ void add(int group, const float (&values)[4], const float (&weights)[OPEN]) {
#pragma unroll
        for (int r = 0; r < OPEN; ++r)
            if (weights[r] != 0)  // the same for all threads
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[r][group][i] = fmaf(weights[r], values[i], sums[r][group][i]);
    }

    // Forget the first, which is complete.
    __device__ void close() {
#pragma unroll
        for (int group = 0; group < GROUPS; ++group)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int r = 0; r + 1 < OPEN; ++r) sums[r][group][i] = sums[r + 1][group][i];
                sums[OPEN - 1][group][i] = 0;
            }
    }
};

// A tile, and the pooled rows and columns of u of which it has taps.
struct Reach {
    Tile tile;
    int first_y, first_x, rows, columns;
    Divisor by_width, by_pooled_width, by_parts, by_parts_of_v;  // of maps; of how many threads share a row's columns
};

// TAPS and SUBSAMPLING are those along a row.
template <int TAPS, int SUBSAMPLING>
class PairPooling {
    // So many pooled positions at a time share what they read; between rows of positions stand as many zeros as their
    // taps may reach beyond.
    static constexpr int TOGETHER = TAPS + 3 * SUBSAMPLING <= 16 ? 4 : 1;
    static constexpr int ZEROS = (TOGETHER - 1) * SUBSAMPLING + TAPS - 1;

    const PairShape& s;
    Reach* reach;                // shared, as all that follows
    float *weight_y, *weight_x;  // of the taps
    float *of_tile;              // [tile_rows, pooled_height]: of the tile's rows of u in the pooled ones
    int* places;                 // [slots]: where a position's row of v begins in `unpooled`, or -1: it is empty
    float* unpooled;             // [tile_rows, ZEROS + tile_columns, stride], ZEROS
    float* halfway;              // [tile_rows · pooled columns of u, ZEROS + map_width], ZEROS
    float* pooled_columns;       // [tile_rows, pooled columns of u, pooled_width]

    __device__ int halfway_stride() const { return (s.map_width + ZEROS) | 1; }  // odd: rows lie in different banks

    // Weighted sums of TOGETHER pooled positions, of numbers `distance` apart.
    __device__ void pool(const float* from, int distance, float (&sums)[TOGETHER]) const {
        if constexpr (TOGETHER == 1) {
            sums[0] = 0;
#pragma unroll 4
            for (int tap = 0; tap < TAPS; ++tap) sums[0] = fmaf(weight_x[tap], from[tap * distance], sums[0]);
        } else {
            float window[ZEROS + 1];
#pragma unroll
            for (int i = 0; i <= ZEROS; ++i) window[i] = from[i * distance];
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
                for (int i = 0; i < TOGETHER; ++i)
                    sums[i] = fmaf(weight_x[tap], window[i * SUBSAMPLING + tap], tap == 0 ? 0.0f : sums[i]);
        }
    }

public:
    __device__ PairPooling(const PairShape& shape, const float* weights, unsigned char*& shared)
        : s(shape), reach(take<Reach>(shared, 1)), weight_y(take<float>(shared, s.taps_y)),
          weight_x(take<float>(shared, TAPS)), of_tile(take<float>(shared, s.tile_rows * s.pooled_height)),
          places(take<int>(shared, s.slots)) {
        if (threadIdx.x == 0) {
            reach->by_width = Divisor(s.map_width);
            reach->by_pooled_width = Divisor(s.pooled_width);
            reach->by_parts_of_v = Divisor((s.pooled_width + TOGETHER - 1) / TOGETHER);
        }
        int count = (s.tile_rows * (s.tile_columns + ZEROS) + ZEROS) * s.stride;
        int half_count = s.tile_rows * s.reached * halfway_stride() + ZEROS;
        unpooled = take<float>(shared, count);
        halfway = take<float>(shared, half_count);
        pooled_columns = take<float>(shared, s.tile_rows * s.reached * s.pooled_width);
#pragma unroll 1
        for (int i = threadIdx.x; i < count; i += THREADS) unpooled[i] = 0;
#pragma unroll 1
        for (int i = threadIdx.x; i < half_count; i += THREADS) halfway[i] = 0;
#pragma unroll 1
        for (int i = threadIdx.x; i < s.taps_y; i += THREADS) weight_y[i] = weights[i];
#pragma unroll 1
        for (int i = threadIdx.x; i < TAPS; i += THREADS) weight_x[i] = weights[s.taps_y + i];
        Divisor by_columns(s.tile_columns);
#pragma unroll 1
        for (int i = threadIdx.x; i < s.slots; i += THREADS) {
            int row = by_columns.quotient(i), column = by_columns.remainder(i);
            places[i] =
                row < s.tile_rows ? (row * (s.tile_columns + ZEROS) + ZEROS + column) * s.stride : -1;
        }
    }

    // Between barriers.
    __device__ void begin(const Tile& tile) {
        if (threadIdx.x == 0) {
            reach->tile = tile;
            int x = tile.x - s.origin_x;
            reach->first_x = max(0, floor_divide(x - TAPS, SUBSAMPLING) + 1);
            reach->columns = min(s.pooled_width, floor_divide(x + tile.columns - 1, SUBSAMPLING) + 1) - reach->first_x;
            reach->by_parts = Divisor((reach->columns + TOGETHER - 1) / TOGETHER);
            int y = tile.y - s.origin_y;
            reach->first_y = max(0, floor_divide(y - s.taps_y, SUBSAMPLING) + 1);
            reach->rows = min(s.pooled_height, floor_divide(y + tile.rows - 1, SUBSAMPLING) + 1) - reach->first_y;
        }
#pragma unroll 1
        for (int i = threadIdx.x; i < tile.rows * s.pooled_height; i += THREADS) {
            int tap = tile.y + i / s.pooled_height - s.origin_y - i % s.pooled_height * SUBSAMPLING;
            of_tile[i] = tap >= 0 && tap < s.taps_y ? weight_y[tap] : 0;
        }
    }

    // What row y of v counts in the pooled rows from `next` on.
    __device__ void weights_of(int y, int next, float (&weights)[OPEN]) const {
#pragma unroll
        for (int r = 0; r < OPEN; ++r) {
            int tap = y - s.origin_y - (next + r) * SUBSAMPLING;
            weights[r] = next + r < s.pooled_height && tap >= 0 && tap < s.taps_y ? weight_y[tap] : 0;
        }
    }

    // Whether no row after y belongs to this pooled row.
    __device__ bool complete(int row, int y) const {
        return row < s.pooled_height &&
               (y == s.bottom - 1 || s.origin_y + row * SUBSAMPLING + s.taps_y - 1 <= y);
    }

    // Add a complete pooled row of v to the pooled map [pooled_height, pooled_width]² of the pair.
    template <class Source, int GROUPS>
    __device__ void add(const Source& source, const OpenRows<GROUPS>& open, int pooled_row, float* pooled) {
#pragma unroll
        for (int row = 0; row < Source::ROWS; ++row) {
            int place = places[source.slot(row)];
            float* to = unpooled + place + source.column();
            float factor = source.factor(row);
#pragma unroll
            for (int group = 0; group < GROUPS; ++group)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (Source::row(group, i) == row && place >= 0)
                        to[Source::offset(group, i)] = open.sums[0][group][i] * factor;
        }
        __syncthreads();
        const Reach& r = *reach;
        pool_columns_of_u(r);
        __syncthreads();
        pool_columns_of_v(r);
        __syncthreads();
        pool_rows_of_u(r, pooled + static_cast<size_t>(pooled_row) * s.pooled_width);
    }

private:
    // A thread has a column of v, and some pooled columns of u in a row.
    __device__ void pool_columns_of_u(const Reach& r) const {
        int parts = (r.columns + TOGETHER - 1) / TOGETHER, start = s.origin_x + r.first_x * SUBSAMPLING - r.tile.x;
#pragma unroll 1
        for (int task = threadIdx.x; task < r.tile.rows * parts * s.map_width; task += THREADS) {
            int rest = r.by_width.quotient(task), column = r.by_width.remainder(task);
            int y = r.by_parts.quotient(rest), x = r.by_parts.remainder(rest) * TOGETHER;
            int first = y * (s.tile_columns + ZEROS) + ZEROS + start + x * SUBSAMPLING;
            float sums[TOGETHER];
            pool(unpooled + first * s.stride + column, s.stride, sums);
            float* to = halfway + (y * r.columns + x) * halfway_stride() + ZEROS + column;
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i)
                if (x + i < r.columns) to[i * halfway_stride()] = sums[i];
        }
    }

    // A thread has a pooled column of u in a row, and some pooled columns of v.
    __device__ void pool_columns_of_v(const Reach& r) const {
        int parts = (s.pooled_width + TOGETHER - 1) / TOGETHER;
#pragma unroll 1
        for (int task = threadIdx.x; task < r.tile.rows * r.columns * parts; task += THREADS) {
            int row = r.by_parts_of_v.quotient(task), x = r.by_parts_of_v.remainder(task) * TOGETHER;
            float sums[TOGETHER];
            pool(halfway + row * halfway_stride() + ZEROS + s.origin_x + x * SUBSAMPLING, 1, sums);
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i)
                if (x + i < s.pooled_width) pooled_columns[row * s.pooled_width + x + i] = sums[i];
        }
    }

    // A thread has pooled columns of u and v. Additions that nobody waits for; barriers order those of one place.
    __device__ void pool_rows_of_u(const Reach& r, float* pooled) const {
        int of_row = r.columns * s.pooled_width;
#pragma unroll 1
        for (int task = threadIdx.x; task < of_row; task += THREADS) {
            int x = r.first_x + r.by_pooled_width.quotient(task), column = r.by_pooled_width.remainder(task);
#pragma unroll 1
            for (int y = r.first_y; y < r.first_y + r.rows; ++y) {
                float sum = 0;
#pragma unroll 1
                for (int row = 0; row < r.tile.rows; ++row)
                    sum = fmaf(of_tile[row * s.pooled_height + y], pooled_columns[row * of_row + task], sum);
                int place = (y * s.pooled_width + x) * s.pooled_height;
                atomicAdd(pooled + static_cast<size_t>(place) * s.pooled_width + column, sum);
            }
        }
    }
};

// Pool what a source gives, of which a thread has GROUPS of four values, at ROWS positions u:
//   begin(tile)                    the tile's positions u; ends with a barrier
//   values(y, take)                call take(group, values, tangents) for each group of row y of v, the rows from `top` on
//                                  one after the other; with barriers
//   row(group, i), slot(row), column(), offset(group, i)
//                                  where a value belongs: u's slot, the thread's first column of v, and how far from it
//   factor(row)                    what the pooled values are multiplied with, 0 where u's slot is empty
template <bool TANGENT, class Source, class Pooling>
__device__ inline void pool_pairs(
    Source& source, Pooling& pooling, const PairShape& s, float* pooled, float* tangents) {
    constexpr int GROUPS = Source::GROUPS;
    size_t area = static_cast<size_t>(s.pooled_height) * s.pooled_width, map = blockIdx.x * area * area;
    for (int y = s.top; y < s.bottom; y += s.tile_rows)
        for (int x = s.left; x < s.right; x += s.tile_columns) {
            __syncthreads();  // all are done with the tile before
            Tile tile{y, x, min(s.tile_rows, s.bottom - y), min(s.tile_columns, s.right - x)};
            pooling.begin(tile);
            source.begin(tile);  // ends with a barrier
            OpenRows<GROUPS> open;
            OpenRows<TANGENT ? GROUPS : 1> open_tangents;
            int next = 0;
            for (int row = s.top; row < s.bottom; ++row) {
                float weights[OPEN];
                pooling.weights_of(row, next, weights);
                source.values(row, [&](int group, const float (&values)[4], const float (&tangents)[4]) {
                    open.add(group, values, weights);
                    if constexpr (TANGENT) open_tangents.add(group, tangents, weights);
                });
                for (; pooling.complete(next, row); ++next) {
                    pooling.add(source, open, next, pooled + map);
                    open.close();
                    if constexpr (TANGENT) {
                        pooling.add(source, open_tangents, next, tangents + map);
                        open_tangents.close();
                    }
                }
            }
        }
}
