// TF32, bfloat16, and the products of tiles that a warp makes together.
//
// Layouts are those documented in kernels/primitives.cuh.  The products are summed in double precision and
// cut off to float32, towards zero, as tensor cores do by measurements (Fasi, Higham, Mikaitis, Pranesh 2021).
#pragma once

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

CKN_HARNESS float towards_zero(double x) {
    float nearest = static_cast<float>(x);
    return std::fabs(nearest) > std::fabs(x) ? std::nextafterf(nearest, 0.0f) : nearest;
}

struct Product {
    float* d;
    const uint32_t *a, *b;
};

// D += A B for A [16, depth], B [depth, 8], both as float, and D as the lanes hold it.
template <int depth>
CKN_HARNESS void add_product(Thread* first, const float (&a)[16][depth], const float (&b)[depth][8]) {
    for (int row = 0; row < 16; ++row) {
        double sum[8] = {};
        for (int k = 0; k < depth; ++k)
            for (int column = 0; column < 8; ++column) sum[column] += static_cast<double>(a[row][k]) * b[k][column];
        for (int column = 0; column < 8; ++column) {
            Product& lane = *static_cast<Product*>(first[row % 8 * 4 + column / 2].operand);
            float& d = lane.d[row / 8 * 2 + column % 2];
            d = towards_zero(d + sum[column]);
        }
    }
}

CKN_HARNESS float float_of_bits(uint32_t bits) {
    float number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

CKN_HARNESS void multiply_tf32(Thread* first, unsigned) {
    constexpr uint32_t used = 0xffffe000u;  // the hardware ignores the low 13 bits
    float a[16][8], b[8][8];
    for (int lane = 0; lane < lanes; ++lane) {
        const Product& held = *static_cast<Product*>(first[lane].operand);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = float_of_bits(held.a[i] & used);
        for (int i = 0; i < 2; ++i) b[t + i * 4][g] = float_of_bits(held.b[i] & used);
    }
    add_product(first, a, b);
}

CKN_HARNESS void multiply_bf16(Thread* first, unsigned) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < lanes; ++lane) {
        const Product& held = *static_cast<Product*>(first[lane].operand);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i)
            for (int half = 0; half < 2; ++half)
                a[g + i % 2 * 8][2 * t + half + i / 2 * 8] = float_of_bits(held.a[i] >> 16 * half << 16);
        for (int i = 0; i < 2; ++i)
            for (int half = 0; half < 2; ++half)
                b[2 * t + half + i * 8][g] = float_of_bits(held.b[i] >> 16 * half << 16);
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
    ckn::meet({"mma_bf16", file, line}, {~0u, ckn::multiply_bf16, true, false}, &operand);
}
