// How do tensor cores sum? D = C + Σ a b of a few terms, by the products of kernels/primitives.cuh.

// Of a row, a column and a sum of number 0, which lanes 0 to 3 hold; all others are 0.
template <void (*multiply)(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2])>
__device__ void add_terms(const uint32_t* a, const uint32_t* b, float* d) {
    int t = threadIdx.x % 4;
    bool first = threadIdx.x < 4;
    uint32_t held[4] = {first ? a[t] : 0, 0, first ? a[t + 4] : 0, 0}, other[2] = {first ? b[t] : 0, first ? b[t + 4] : 0};
    float sums[4] = {threadIdx.x == 0 ? d[0] : 0, 0, 0, 0};
    __syncwarp();
    multiply(sums, held, other);
    if (threadIdx.x == 0) d[0] = sums[0];
}

__device__ void tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_tf32(d, a, b); }
__device__ void halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_f16(d, a, b); }

// Of 8 terms in TF32, and of 16 in half precision, two a word.
extern "C" __global__ void sum_tf32(const uint32_t* a, const uint32_t* b, float* d) { add_terms<tf32>(a, b, d); }
extern "C" __global__ void sum_f16(const uint32_t* a, const uint32_t* b, float* d) { add_terms<halves>(a, b, d); }
