// How fast are products and loads from shared memory? Each thread repeats one instruction; results are of no account.

#define WGMMA_RATE(NAME, COLUMNS, CALL)                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME(float* out, int times) {                              \
        extern __shared__ __align__(1024) unsigned char bytes[];                                                    \
        for (int i = threadIdx.x; i < 16384; i += 256) reinterpret_cast<u32*>(bytes)[i] = 0;                        \
        proxy_fence();                                                                                              \
        __syncthreads();                                                                                            \
        float d[COLUMNS / 2];                                                                                       \
        for (float& x : d) x = 0;                                                                                   \
        u32 held[4] = {threadIdx.x, 2, 3, 4};                                                                       \
        u64 b = descriptor(shared_address(bytes), COLUMNS * 16, 128), a = descriptor(shared_address(bytes), 1024, 128); \
        for (int k = 0; k < times; ++k) {                                                                           \
            wgmma_fence();                                                                                          \
            for (int i = 0; i < 4; ++i) CALL;                                                                       \
            wgmma_commit();                                                                                         \
            wgmma_wait();                                                                                           \
        }                                                                                                           \
        float sum = 0;                                                                                              \
        for (float x : d) sum += x;                                                                                 \
        if (sum == 1234.5f) out[threadIdx.x] = sum + held[0] + static_cast<float>(a);                               \
    }
WGMMA_RATE(registers64, 64, wgmma_bf16_n64_registers(d, held, b, 1))
WGMMA_RATE(registers128, 128, wgmma_bf16_n128_registers(d, held, b, 1))
WGMMA_RATE(registers256, 256, wgmma_bf16_n256_registers(d, held, b, 1))
WGMMA_RATE(shared256, 256, wgmma_bf16_n256_shared(d, a, b, 1))

#define MMA_RATE(NAME, SHAPE, TYPES)                                                                                \
    extern "C" __global__ void __launch_bounds__(256, 2) NAME(float* out, int times) {                              \
        float d[16][4] = {};                                                                                        \
        u32 a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};                                                           \
        for (int k = 0; k < times; ++k)                                                                             \
            _Pragma("unroll") for (int j = 0; j < 16; ++j) asm volatile(                                            \
                "mma.sync.aligned." SHAPE ".row.col.f32." TYPES ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])                                        \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                \
        float sum = 0;                                                                                              \
        for (auto& tile : d)                                                                                        \
            for (float x : tile) sum += x;                                                                          \
        if (sum == 1234.5f) out[threadIdx.x] = sum;                                                                 \
    }
MMA_RATE(mma_bf16, "m16n8k16", "bf16.bf16")
MMA_RATE(mma_f16, "m16n8k16", "f16.f16")
MMA_RATE(mma_tf32, "m16n8k8", "tf32.tf32")

extern "C" __global__ void __launch_bounds__(256, 2) shared_loads(float* out, int times) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    for (int i = threadIdx.x; i < 8192; i += 256) reinterpret_cast<float*>(bytes)[i] = i;
    __syncthreads();
    float x[16];
    u32 base = shared_address(bytes) + threadIdx.x * 4;
    for (int k = 0; k < times; ++k)
        _Pragma("unroll") for (int j = 0; j < 16; ++j)
            asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x[j]) : "r"(base + 1024 * j));
    float sum = 0;
    for (float y : x) sum += y;
    if (sum == 1234.5f) out[threadIdx.x] = sum;
}
