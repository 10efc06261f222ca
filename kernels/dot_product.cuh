// The dot-product kernels κ of a cosine t: the device's side of ckncuda/dot_product.py.
//
// Each takes `parameters`, a few floats of global memory, the same for all threads.
#pragma once

struct Exponential {  // exp(α (t − 1)); parameters: α log₂ e
    __device__ static float value(float t, const float* parameters) { return exp2f(parameters[0] * (t - 1)); }
};

struct Polynomial {  // ((t + c) / (1 + c))^d; parameters: d, c, 1 / (1 + c)
    __device__ static float value(float t, const float* parameters) {
        float base = (t + parameters[1]) * parameters[2], power = 1;
        for (int degree = static_cast<int>(parameters[0]); degree > 0; degree /= 2) {  // by squaring
            if (degree % 2) power *= base;
            base *= base;
        }
        return power;
    }
};

struct InversePolynomial {  // 1 / (2 − t)
    __device__ static float value(float t, const float*) { return 1 / (2 - t); }
};

// π − arccos(t), with t held in [−1, 1], which rounding may leave.
__device__ inline float angle_from_opposite(float t) { return 3.14159265f - acosf(fminf(fmaxf(t, -1.0f), 1.0f)); }

struct ArcCosine0 {  // 1 − arccos(t) / π
    __device__ static float value(float t, const float*) { return angle_from_opposite(t) * 0.318309886f; }
};

struct ArcCosine1 {  // (√(1 − t²) + t (π − arccos t)) / π
    __device__ static float value(float t, const float*) {
        t = fminf(fmaxf(t, -1.0f), 1.0f);
        return (sqrtf((1 - t) * (1 + t)) + t * angle_from_opposite(t)) * 0.318309886f;
    }
};

struct Linear {  // t
    __device__ static float value(float t, const float*) { return t; }
};

struct Series {  // Σ a_m t^m, m = 0 … M; parameters: M, a_0, …, a_M
    __device__ static float value(float t, const float* parameters) {
        int m = static_cast<int>(parameters[0]);
        float sum = parameters[m + 1];
        while (m-- > 0) sum = sum * t + parameters[m + 1];
        return sum;
    }
};
