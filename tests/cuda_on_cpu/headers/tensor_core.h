// TF32, bfloat16, half precision, and the products of tiles that a warp makes together.
//
// Layouts are those documented in kernels/primitives.cuh.  Sums are made as measurements say that the hardware makes
// them (Fasi, Higham, Mikaitis, Pranesh 2021; Khattak, Mikaitis 2025): some terms at a time.  Their products are exact.
// All addends, the sum so far among them, are aligned to the largest and cut off, towards zero, a bit or two below the
// last one of a float of its size; what they add up to is cut off to a float.
#pragma once
#ifdef __F16C__
#include <immintrin.h>
#endif

// To nearest, ties to even; the first number in the lower half.
static inline uint32_t to_bf16_pair(float low, float high) {
    auto rounded = [](float x) -> uint32_t {
        uint32_t bits = __float_as_uint(x);
        if (x != x) return 0x7fffu;
        return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}

namespace [[gnu::visibility("hidden")]] ckn {

CKN_HARNESS float float_of_bits(uint32_t bits) {
    float number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

// How a device sums products: `extra` bits below a float's last, so many terms of TF32 or of halves at a time.
struct TensorCores {
    int extra, tf32_terms, half_terms;

    // By compute capability: A100 and its relatives; H100 and what came after.  Older ones have none of these products.
    static TensorCores of(int capability) {
        if (capability >= 90) return {2, 8, 16};
        return capability >= 80 ? TensorCores{1, 4, 8} : TensorCores{0, 0, 0};
    }
};

inline TensorCores tensor_cores = TensorCores::of(90);

CKN_HARNESS void set_up_tensor_cores() {
    const char* digits = std::getenv("CKNCUDA_CPU_COMPUTE_CAPABILITY");
    tensor_cores = TensorCores::of(digits && *digits ? std::atoi(digits) : 90);
}

struct Product {
    float* d;
    const uint32_t *a, *b;
};

// Four columns at a time.
typedef double Four __attribute__((vector_size(4 * sizeof(double))));  // kept in registers, as an array is not
typedef int64_t FourBits __attribute__((vector_size(4 * sizeof(int64_t))));
typedef int32_t FourInts __attribute__((vector_size(4 * sizeof(int32_t))));

CKN_HARNESS Four absolute(Four x) { return (Four)((FourBits)x & INT64_MAX); }
CKN_HARNESS Four larger(Four x, Four y) { return x > y ? x : y; }

// One step: the sum so far and the products of some terms, aligned, cut off and added.
template <int depth>
CKN_HARNESS Four add_aligned(Four sum, const double (&a)[depth], const Four (&b)[depth][2], int half, int from, int to) {
    Four products[depth], most = absolute(sum), plain = sum;
    for (int k = from; k < to; ++k) {
        products[k] = a[k] * b[k][half];
        most = larger(most, absolute(products[k]));
        plain += products[k];
    }
    // Times 2^(23 + extra - e) with e the exponent of the largest, all are whole numbers once cut off.
    FourBits exponent = (FourBits)most >> 52;
    FourBits up = (2046 + 23 + tensor_cores.extra) - exponent;  // biased; of products of 0, none
    Four scale = (Four)((exponent == 0 ? FourBits{1023, 1023, 1023, 1023} : up) << 52);
    FourInts whole = __builtin_convertvector(sum * scale, FourInts);
    for (int k = from; k < to; ++k) whole += __builtin_convertvector(products[k] * scale, FourInts);
    // Of a double, 29 bits more than a float has are cut off. What is no number, or infinite, remains.
    FourBits cut = (FourBits)(__builtin_convertvector(whole, Four) / scale) & ~((int64_t{1} << 29) - 1);
    return plain - plain == 0 ? (Four)cut : plain;
}

// D += A B for A [16, depth], B [depth, 8], and D as the lanes hold it.
template <int depth>
CKN_HARNESS void add_product(Thread* first, const double (&a)[16][depth], const Four (&b)[depth][2], int terms) {
    for (int row = 0; row < 16; ++row)
        for (int half = 0; half < 2; ++half) {
            float* held[4];
            Four sum;
            for (int i = 0; i < 4; ++i) {
                int column = 4 * half + i;
                Product& lane = *static_cast<Product*>(first[row % 8 * 4 + column / 2].operand);
                held[i] = &lane.d[row / 8 * 2 + column % 2];
                sum[i] = *held[i];
            }
            for (int from = 0; from < depth; from += terms) sum = add_aligned(sum, a[row], b, half, from, from + terms);
            for (int i = 0; i < 4; ++i) *held[i] = static_cast<float>(sum[i]);
        }
}

CKN_HARNESS void multiply_tf32(Thread* first, unsigned) {
    constexpr uint32_t used = 0xffffe000u;  // the hardware ignores the low 13 bits
    double a[16][8];
    Four b[8][2];
    for (int lane = 0; lane < lanes; ++lane) {
        const Product& held = *static_cast<Product*>(first[lane].operand);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = float_of_bits(held.a[i] & used);
        for (int i = 0; i < 2; ++i) b[t + i * 4][g / 4][g % 4] = float_of_bits(held.b[i] & used);
    }
    add_product(first, a, b, tensor_cores.tf32_terms);
}

// What a half of a word holds, in bfloat16 or half precision.
CKN_HARNESS float of_bf16(uint32_t bits) { return float_of_bits(bits << 16); }

CKN_HARNESS float of_f16(uint32_t bits) {
#ifdef __F16C__
    return _cvtsh_ss(static_cast<unsigned short>(bits));
#else
    uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                 : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f
                                 : float_of_bits((exponent + 112) << 23 | mantissa << 13);
    return bits >> 15 & 1 ? -size : size;
#endif
}

template <float of_half(uint32_t)>
CKN_HARNESS void multiply_halves(Thread* first, unsigned) {
    double a[16][16];
    Four b[16][2];
    for (int lane = 0; lane < lanes; ++lane) {
        const Product& held = *static_cast<Product*>(first[lane].operand);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i)
            for (int half = 0; half < 2; ++half)
                a[g + i % 2 * 8][2 * t + half + i / 2 * 8] = of_half(held.a[i] >> 16 * half & 0xffffu);
        for (int i = 0; i < 2; ++i)
            for (int half = 0; half < 2; ++half)
                b[2 * t + half + i * 8][g / 4][g % 4] = of_half(held.b[i] >> 16 * half & 0xffffu);
    }
    add_product(first, a, b, tensor_cores.half_terms);
}

// The warp's product; a device that has none is told by the number of its terms.
CKN_HARNESS void multiply_tiles(Site site, Product operand, Complete complete) {
    if (!tensor_cores.half_terms) {
        blame(site);
        describe("needs compute capability 8.0");
        give_up();
    }
    meet(site, {~0u, complete, true, false}, &operand);
}

}  // namespace ckn

static inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CKN_HERE) {
    ckn::multiply_tiles({"mma_tf32", file, line}, {d, a, b}, ckn::multiply_tf32);
}
static inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CKN_HERE) {
    ckn::multiply_tiles({"mma_bf16", file, line}, {d, a, b}, ckn::multiply_halves<ckn::of_bf16>);
}
static inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CKN_HERE) {
    ckn::multiply_tiles({"mma_f16", file, line}, {d, a, b}, ckn::multiply_halves<ckn::of_f16>);
}
