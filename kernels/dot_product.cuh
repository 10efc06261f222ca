// The dot-product kernels κ of a cosine t: the device's side of ckncuda/layer/dot_product.py.
//
// Each is made from `parameters`, a few floats of global memory, the same for all threads. BRANCHES: the lanes of a warp
// may go different ways, by their t, so that what needs them together must bring them together. Those of a bounded
// derivative have with_slope: κ(t) and κ'(t).
#pragma once

struct Exponential {  // exp(α (t − 1)); parameters: α log₂ e
    static constexpr bool BRANCHES = false;
    float rate;
    __device__ explicit Exponential(const float* parameters) : rate(parameters[0]) {}
    __device__ float operator()(float t) const { return exp2f(fmaf(rate, t, -rate)); }
    __device__ void with_slope(float t, float& value, float& slope) const {
        value = operator()(t);
        slope = rate * 0.693147181f * value;  // α κ(t)
    }
};

struct Polynomial {  // ((t + c) / (1 + c))^d; parameters: d, c, 1 / (1 + c)
    static constexpr bool BRANCHES = false;
    int degree;
    float offset, factor;
    __device__ explicit Polynomial(const float* parameters)
        : degree(static_cast<int>(parameters[0])), offset(parameters[1]), factor(parameters[2]) {}
    __device__ float operator()(float t) const {
        float base = (t + offset) * factor, power = 1;
        for (int left = degree; left > 0; left /= 2) {  // by squaring
            if (left % 2) power *= base;
            base *= base;
        }
        return power;
    }
    __device__ void with_slope(float t, float& value, float& slope) const {
        float base = (t + offset) * factor, square = base, power = 1;
        for (int left = degree - 1; left > 0; left /= 2) {
            if (left % 2) power *= square;
            square *= square;
        }
        value = power * base;
        slope = degree * factor * power;
    }
};

struct InversePolynomial {  // 1 / (2 − t)
    static constexpr bool BRANCHES = false;
    __device__ explicit InversePolynomial(const float*) {}
    __device__ float operator()(float t) const { return __fdividef(1, 2 - t); }  // from 1/3 to 1
    __device__ void with_slope(float t, float& value, float& slope) const {
        value = operator()(t);
        slope = value * value;
    }
};

// π − arccos(t), with t held in [−1, 1], which rounding may leave.
__device__ inline float angle_from_opposite(float t) { return 3.14159265f - acosf(fminf(fmaxf(t, -1.0f), 1.0f)); }

struct ArcCosine0 {  // 1 − arccos(t) / π
    static constexpr bool BRANCHES = true;
    __device__ explicit ArcCosine0(const float*) {}
    __device__ float operator()(float t) const { return angle_from_opposite(t) * 0.318309886f; }
};

// Both at once: κ_1(t), and κ_0(t), its derivative. The slope of κ_0 is infinite at 1, where equal patches lie, whose
// cosine rounding leaves a few 1e-7 below: κ_0 would be 2e-4 too small there, for all of them.
__device__ inline void relu_and_step(float t, float& relu, float& step) {
    t = t > 1 - 6e-7f ? 1.0f : fmaxf(t, -1.0f);
    step = angle_from_opposite(t) * 0.318309886f;
    relu = fmaf(sqrtf((1 - t) * (1 + t)), 0.318309886f, t * step);
}

struct ArcCosine1 {  // (√(1 − t²) + t (π − arccos t)) / π
    static constexpr bool BRANCHES = true;
    __device__ explicit ArcCosine1(const float*) {}
    __device__ float operator()(float t) const {
        t = fminf(fmaxf(t, -1.0f), 1.0f);
        return (sqrtf((1 - t) * (1 + t)) + t * angle_from_opposite(t)) * 0.318309886f;
    }
    __device__ void with_slope(float t, float& value, float& slope) const { relu_and_step(t, value, slope); }
};

struct Linear {  // t
    static constexpr bool BRANCHES = false;
    __device__ explicit Linear(const float*) {}
    __device__ float operator()(float t) const { return t; }
    __device__ void with_slope(float t, float& value, float& slope) const {
        value = t;
        slope = 1;
    }
};

struct Series {  // Σ a_m t^m, m = 0 … M; parameters: M, a_0, …, a_M
    static constexpr bool BRANCHES = false;
    const float* parameters;
    __device__ explicit Series(const float* parameters) : parameters(parameters) {}
    __device__ float operator()(float t) const {
        int m = static_cast<int>(parameters[0]);
        float sum = parameters[m + 1];
        while (m-- > 0) sum = sum * t + parameters[m + 1];
        return sum;
    }
    __device__ void with_slope(float t, float& value, float& slope) const {
        int m = static_cast<int>(parameters[0]);
        value = parameters[m + 1];
        slope = 0;
        while (m-- > 0) {
            slope = slope * t + value;
            value = value * t + parameters[m + 1];
        }
    }
};
