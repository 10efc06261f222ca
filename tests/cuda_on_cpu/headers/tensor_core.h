// TF32, bfloat16, half precision, and the products of tiles that a warp makes together.
//
// Layouts are those documented in kernels/primitives.cuh.  The products are summed in double precision and
// cut off to float32, towards zero, as tensor cores do by measurements (Fasi, Higham, Mikaitis, Pranesh 2021).
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

// The float before one that is too large is that of the bits before; no float but zero has none.
CKN_HARNESS float towards_zero(double x) {
    float nearest = static_cast<float>(x);
    return float_of_bits(__float_as_uint(nearest) - (std::fabs(nearest) > std::fabs(x)));
}

struct Product {
    float* d;
    const uint32_t *a, *b;
};

typedef double Four __attribute__((vector_size(4 * sizeof(double))));  // kept in registers, as an array is not

// D += A B for A [16, depth], B [depth, 8], and D as the lanes hold it.
template <int depth>
CKN_HARNESS void add_product(Thread* first, const double (&a)[16][depth], const Four (&b)[depth][2]) {
    for (int row = 0; row < 16; ++row) {
        Four left = {}, right = {};
        for (int k = 0; k < depth; ++k) {
            left += a[row][k] * b[k][0];
            right += a[row][k] * b[k][1];
        }
        for (int column = 0; column < 8; ++column) {
            Product& lane = *static_cast<Product*>(first[row % 8 * 4 + column / 2].operand);
            float& d = lane.d[row / 8 * 2 + column % 2];
            d = towards_zero(d + (column < 4 ? left[column] : right[column - 4]));
        }
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
    add_product(first, a, b);
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
    add_product(first, a, b);
}

}  // namespace ckn

static inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CKN_HERE) {
    ckn::Product operand{d, a, b};
    ckn::meet({"mma_tf32", file, line}, {~0u, ckn::multiply_tf32, true, false}, &operand);
}
static inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CKN_HERE) {
    ckn::Product operand{d, a, b};
    ckn::meet({"mma_bf16", file, line}, {~0u, ckn::multiply_halves<ckn::of_bf16>, true, false}, &operand);
}
static inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CKN_HERE) {
    ckn::Product operand{d, a, b};
    ckn::meet({"mma_f16", file, line}, {~0u, ckn::multiply_halves<ckn::of_f16>, true, false}, &operand);
}
