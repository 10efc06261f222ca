// Does the hardware take operands as the next kernels would lay them out? Compared with products on the host.

// A [64 rows, 64 terms] in halves, row after row, into rows of 72; B [64 columns, 64 terms] into core matrices
// [term / 8][column / 8][8][8].
__device__ void lay_out_columns(unsigned short* to, const unsigned short* from, int terms) {
    for (int i = threadIdx.x; i < 64 * terms; i += 128) {
        int column = i / terms, k = i % terms;
        to[(k / 8 * 8 + column / 8) * 64 + column % 8 * 8 + k % 8] = from[i];
    }
}

// Sums of a wgmma of 64 columns as its threads hold them, to [64, 64].
__device__ void store(const float (&d)[32], float* to) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int j = 0; j < 8; ++j)
        for (int i = 0; i < 4; ++i)
            to[(warp * 16 + lane / 4 + i / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + i % 2] = d[4 * j + i];
}

// A from registers, brought there by ldmatrix.
extern "C" __global__ void __launch_bounds__(128) from_registers(const unsigned short* A, const unsigned short* B, float* D) {
    __shared__ __align__(128) unsigned short a[64 * 72], b[64 * 64];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = threadIdx.x; i < 64 * 64; i += 128) a[i / 64 * 72 + i % 64] = A[i];
    lay_out_columns(b, B, 64);
    proxy_fence();
    __syncthreads();
    float d[32];
    for (int k = 0; k < 64; k += 16) {
        u32 held[4];
        ldmatrix(held, shared_address(a + (warp * 16 + lane % 16) * 72 + k + lane / 16 * 8));
        wgmma_fence();
        wgmma_f16_n64_registers(d, held, descriptor(shared_address(b) + k / 8 * 1024, 1024, 128), k > 0);
        wgmma_commit();
        wgmma_wait();
    }
    store(d, D);
}

// A a window of a map [10, 10, 16], moved by (dy, dx): patches without im2col, from planes [2][10][10][8].
extern "C" __global__ void __launch_bounds__(128) moved_window(
    const unsigned short* map, const unsigned short* B, float* D, int dy, int dx) {
    constexpr int plane = 808;  // of 8 channels of 100 positions, and 8 that keep banks apart
    __shared__ __align__(128) unsigned short a[2 * plane], b[64 * 16];
    for (int i = threadIdx.x; i < 1600; i += 128) a[i % 16 / 8 * plane + i / 16 * 8 + i % 8] = map[i];
    lay_out_columns(b, B, 16);
    proxy_fence();
    __syncthreads();
    float d[32];
    wgmma_fence();
    wgmma_f16_n64_shared(
        d, descriptor(shared_address(a) + (dy * 10 + dx) * 16, 2 * plane, 160), descriptor(shared_address(b), 1024, 128), 0);
    wgmma_commit();
    wgmma_wait();
    store(d, D);
}

// A copy of 4 KiB in one piece that completes on an mbarrier.
extern "C" __global__ void bulk_copy(const float* from, float* to) {
    __shared__ __align__(128) float x[1024];
    __shared__ __align__(8) u64 barrier;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&barrier)));
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("{.reg .b64 s; mbarrier.arrive.expect_tx.shared::cta.b64 s, [%0], 4096;}" ::"r"(shared_address(&barrier))
                     : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 4096, [%2];" ::"r"(
                         shared_address(x)), "l"(from), "r"(shared_address(&barrier)) : "memory");
    }
    __syncthreads();
    u32 done = 0;
    while (!done)
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done) : "r"(shared_address(&barrier)) : "memory");
    for (int i = threadIdx.x; i < 1024; i += blockDim.x) to[i] = x[i];
}
