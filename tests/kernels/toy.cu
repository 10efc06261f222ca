// Kernels so small that it is known what they do: the harness that executes CUDA on a CPU is tested with them.
typedef unsigned int u32;
__device__ float* shared_floats() { return reinterpret_cast<float*>(dynamic_shared()); }

__global__ void arrivals(int* counter, int* order) {
    order[atomicAdd(counter, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}
template <class T> __global__ void shuffles(const T* x, T* y) {
    int i = threadIdx.x;
    y[i] = __shfl_xor_sync(~0u, x[i], 5);
    y[32 + i] = __shfl_sync(~0u, x[i], (3 * i + 1) % 32);
    y[64 + i] = __shfl_down_sync(~0u, x[i], 3);
    y[96 + i] = __shfl_up_sync(~0u, x[i], 2, 8);
    y[128 + i] = __shfl_sync(~0u, x[i], 11, 8);
}
__global__ void votes(const int* x, u32* y) {
    u32 ballot = __ballot_sync(~0u, x[threadIdx.x]);
    y[threadIdx.x] = ballot + 0 * __any_sync(~0u, 0);
    y[32 + threadIdx.x] = __any_sync(~0u, x[threadIdx.x]) + 2 * __all_sync(~0u, x[threadIdx.x]);
}
__global__ void half_warps(const float* x, float* y) {
    int i = threadIdx.x;
    if (i < 16) y[i] = __shfl_xor_sync(0x0000ffffu, x[i], 1);
    else y[i] = __shfl_xor_sync(0xffff0000u, x[i], 2) + __shfl_sync(0xffff0000u, x[i], 0);
}
__global__ void reverse(const float* x, float* y) {
    float* s = shared_floats();
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void reverse_without_barrier(const float* x, float* y) {
    float* s = shared_floats();
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void leftovers(float* y) {
    y[blockIdx.x * blockDim.x + threadIdx.x] = shared_floats()[threadIdx.x];
    shared_floats()[threadIdx.x] = 1;
}
template <int groups> __global__ void copies(const float* x, float* y) {
    float* s = shared_floats();
    int i = threadIdx.x;
    copy_async_4(s + i, x + i, true);
    copy_commit();
    copy_async_16(s + 32 + 4 * i, x + 4 * i, i % 2 == 0);
    copy_commit();
    if (groups >= 0) copy_wait<groups>();
    __syncthreads();
    y[i] = s[31 - i];
    for (int j = 0; j < 4; ++j) y[32 + 4 * i + j] = s[32 + 4 * i + j];
}
__global__ void copy_to(const float* x, int to, int from, int sixteen) {
    if (sixteen) copy_async_16(shared_floats() + to, x + from, true);
    else copy_async_4(shared_floats() + to, x + from, true);
}
template <int n> __device__ void load(u32 (&to)[n], const u32* from) {
    for (int i = 0; i < n; ++i) to[i] = from[threadIdx.x * n + i];
}
enum Kind { tf32, bf16, f16 };
template <Kind kind> __global__ void multiply(const u32* a, const u32* b, float* d, int times) {
    u32 fragment_a[4], fragment_b[2];
    load(fragment_a, a);
    load(fragment_b, b);
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = d[threadIdx.x * 4 + i];
    for (int i = 0; i < times; ++i) {
        if (kind == tf32) mma_tf32(sums, fragment_a, fragment_b);
        else if (kind == bf16) mma_bf16(sums, fragment_a, fragment_b);
        else mma_f16(sums, fragment_a, fragment_b);
    }
    for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sums[i];
}
__global__ void rounded(const float* x, u32* bf16) {
    bf16[threadIdx.x] = to_bf16_pair(x[threadIdx.x], x[blockDim.x - 1 - threadIdx.x]);
}
__global__ void diverge(int kind, float* y) {
    int i = threadIdx.x;
    if (kind == 0 && i < 7) __syncthreads();
    if (kind == 0 && i >= 7 && i < 32) __shfl_sync(~0u, 1.0f, 0);
    if (kind == 1) {
        if (i < 32) __syncthreads();
        else
            __syncthreads();
    }
    if (kind == 2) {
        if (i % 2) __shfl_sync(~0u, 1.0f, 0);
        else
            __shfl_sync(~0u, 2.0f, 0);
    }
    if (kind == 3) {
        float d[4] = {};
        u32 a[4] = {}, b[2] = {};
        if (i != 9) mma_tf32(d, a, b);
    }
    if (kind == 4) __shfl_sync(0x0000ffffu, 1.0f, 0);
    if (kind == 5) {  // threads that have ended are not waited for
        if (i >= 40) return;
        __syncthreads();
        float sum = __shfl_xor_sync(~0u, 1.0f, 1);
        y[i] = sum;
    }
    if (kind == 6 && i == 3) __trap();
}
__global__ void between_blocks(float* y) { y[0] = blockIdx.x; }
__global__ void all_blocks(float* y) { atomicAdd(y, 1.0f); }
template <class T> __global__ void atomics(T* y) {
    atomicAdd(y, 2);
    atomicMax(y + 1, static_cast<T>(threadIdx.x));
    atomicMin(y + 2, static_cast<T>(threadIdx.x));
}
__global__ void write_at(float* y, int i) { if (threadIdx.x == 0) y[i] = 1; }
__global__ void write_shared_at(float* y, int i) { if (threadIdx.x == 0) shared_floats()[i] = y[0]; }
__global__ void misaligned(float* y) { *reinterpret_cast<float4*>(y + 1) = make_float4(1, 2, 3, 4); }
__global__ void scale(float* y, float by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] *= by;
}
struct Pair { float a; int b; };
__global__ void many(const void* v, unsigned char* bytes, const float4* q, double d, long long l, u32 u,
                     bool flag, Pair pair, float* y) {
    y[0] = q[0].y + d + l + u + flag + pair.a + pair.b;
}
extern "C" __global__ void plain(float* y) { y[threadIdx.x] = fminf(max(1, threadIdx.x), 1e-39f); }
