// What the probes share: addresses, descriptors of operands in shared memory, and waits of wgmma (sm_90a).
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// An operand without swizzle, K-major: core matrices of 8 rows of 16 bytes, 128 bytes in one piece each. `along_k` and
// `along_rows` are the bytes from one to its neighbours.
__device__ __forceinline__ u64 descriptor(u32 address, u32 along_k, u32 along_rows) {
    return static_cast<u64>((address & 0x3ffff) >> 4) | static_cast<u64>(along_k >> 4) << 16 |
           static_cast<u64>(along_rows >> 4) << 32;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
// Writes to shared memory are seen by what reads it asynchronously.
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void ldmatrix(u32 (&a)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(address) : "memory");
}
