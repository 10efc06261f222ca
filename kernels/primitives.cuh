// What the kernels ask of the machine: the one place where PTX is written.
//
// Everything else in this folder is plain CUDA C++ on top of these functions. Where a kernel is executed on
// a CPU, CKN_ON_CPU is defined and the same functions come from a header of the test harness.
#pragma once

#ifndef CKN_ON_CPU

typedef unsigned int uint32_t;

// The block's dynamic shared memory, 16-byte aligned; all shared memory of these kernels comes from here.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char ckn_dynamic_shared[];
    return ckn_dynamic_shared;
}

// Copies of 4 or 16 bytes from global to shared memory that pass no register (cp.async, sm_80 and newer).
// Where `inside` is false, zeros are written and nothing is read. A copy is complete for the thread that began
// it after copy_wait, and for the others after a barrier that follows.
__device__ __forceinline__ void copy_async_4(float* shared, const float* global, bool inside) {
#if __CUDA_ARCH__ >= 800
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(inside ? 4 : 0) : "memory");
#else
    *shared = inside ? *global : 0.0f;
#endif
}

__device__ __forceinline__ void copy_async_16(float* shared, const float* global, bool inside) {
#if __CUDA_ARCH__ >= 800
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(inside ? 16 : 0) : "memory");
#else
    *reinterpret_cast<float4*>(shared) = inside ? *reinterpret_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}

// Close a group of the copies begun since the last one.
__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until at most `groups` of this thread's groups are under way.
template <int groups>
__device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}

// What follows needs sm_80: on older devices the library takes plain arithmetic, and never comes here.

// Two numbers rounded to bfloat16 (to nearest, ties to even), the first in the lower half.
__device__ __forceinline__ uint32_t to_bf16_pair(float low, float high) {
    uint32_t bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#endif
    return bits;
}

// D += A B on the warp's tensor cores, A 16×8 (row), B 8×8 (column), D 16×8, A and B in TF32, D in float32. Of a
// TF32 operand, given as the bits of a float, the lowest 13 bits count for nothing.
// With g = lane / 4 and t = lane % 4, a lane holds
//   a[0] = A[g][t]  a[1] = A[g + 8][t]  a[2] = A[g][t + 4]  a[3] = A[g + 8][t + 4]
//   b[0] = B[t][g]  b[1] = B[t + 4][g]
//   d[0] = D[g][2t]  d[1] = D[g][2t + 1]  d[2] = D[g + 8][2t]  d[3] = D[g + 8][2t + 1]
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same with A 16×16 and B 16×8 in bfloat16: a[i] and b[i] hold two neighbours along k, the first in the lower half:
//   a[0] = A[g][2t, 2t + 1]  a[1] = A[g + 8][2t, 2t + 1]  a[2] = A[g][2t + 8, 2t + 9]  a[3] = A[g + 8][2t + 8, 2t + 9]
//   b[0] = B[2t, 2t + 1][g]  b[1] = B[2t + 8, 2t + 9][g]
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same in half precision.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#endif  // CKN_ON_CPU
