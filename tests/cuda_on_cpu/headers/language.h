// CUDA's words: qualifiers, vector types, and the mathematical functions that C++ does not have.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <math.h>

#define __global__
#define __device__
#define __host__
#define __constant__
// Blocks run one after another, so a static variable is shared by a block's threads.  It is not poisoned:
// the project's kernels take their shared memory from dynamic_shared().
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
#define __cluster_dims__(...)
#ifndef __clang__
#define __builtin_assume(condition)
#endif

#define CKN_VECTOR_1_TO_4(T, name, align2, align4)                                              \
    struct name##1 { T x; };                                                                    \
    struct alignas(align2) name##2 { T x, y; };                                                 \
    struct name##3 { T x, y, z; };                                                              \
    struct alignas(align4) name##4 { T x, y, z, w; };                                           \
    static inline name##1 make_##name##1(T x) { return {x}; }                                   \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                           \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                   \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

// The alignments are CUDA's: a misaligned float4 is found by the undefined-behaviour sanitizer.
CKN_VECTOR_1_TO_4(float, float, 8, 16)
CKN_VECTOR_1_TO_4(double, double, 16, 16)
CKN_VECTOR_1_TO_4(int, int, 8, 16)
CKN_VECTOR_1_TO_4(unsigned int, uint, 8, 16)
CKN_VECTOR_1_TO_4(short, short, 4, 8)
CKN_VECTOR_1_TO_4(unsigned short, ushort, 4, 8)
CKN_VECTOR_1_TO_4(signed char, char, 2, 4)
CKN_VECTOR_1_TO_4(unsigned char, uchar, 2, 4)
CKN_VECTOR_1_TO_4(long long, longlong, 16, 16)
CKN_VECTOR_1_TO_4(unsigned long long, ulonglong, 16, 16)
#undef CKN_VECTOR_1_TO_4

struct dim3 {
    unsigned int x = 1, y = 1, z = 1;
};

static constexpr int warpSize = 32;

namespace [[gnu::visibility("hidden")]] ckn {

// The same bits as another type.
template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "both types have the same size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace ckn

static inline unsigned int __float_as_uint(float x) { return ckn::bits_as<unsigned int>(x); }
static inline int __float_as_int(float x) { return ckn::bits_as<int>(x); }
static inline float __uint_as_float(unsigned int x) { return ckn::bits_as<float>(x); }
static inline float __int_as_float(int x) { return ckn::bits_as<float>(x); }
static inline long long __double_as_longlong(double x) { return ckn::bits_as<long long>(x); }
static inline double __longlong_as_double(long long x) { return ckn::bits_as<double>(x); }

// CUDA has min and max of any two numbers; of a NaN and a number, the number.
template <class A, class B, class C = std::common_type_t<A, B>, class = std::enable_if_t<std::is_arithmetic_v<C>>>
inline C max(A a, B b) {
    if constexpr (std::is_floating_point_v<C>) return std::fmax(static_cast<C>(a), static_cast<C>(b));
    else return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
}
template <class A, class B, class C = std::common_type_t<A, B>, class = std::enable_if_t<std::is_arithmetic_v<C>>>
inline C min(A a, B b) {
    if constexpr (std::is_floating_point_v<C>) return std::fmin(static_cast<C>(a), static_cast<C>(b));
    else return static_cast<C>(b) < static_cast<C>(a) ? static_cast<C>(b) : static_cast<C>(a);
}

// The fast versions are the exact ones here.  Macros, because glibc declares functions of some of these names.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
static inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
static inline int __float2int_rz(float x) { return static_cast<int>(x); }
static inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= ((x >> i) & 1u) << (31 - i);
    return reversed;
}

template <class T>
inline T __ldg(const T* p) {
    return *p;
}
template <class T>
inline T __ldcs(const T* p) {
    return *p;
}
template <class T>
inline void __stcs(T* p, T value) {
    *p = value;
}
