// What the threads of a block count with: how many they are, pieces of shared memory, divisions.
#pragma once
#include "primitives.cuh"

constexpr int THREADS = 256;

// A piece of shared memory of `count` elements; advances the pointer past it, 16-byte aligned.
template <class T>
__device__ inline T* take(unsigned char*& shared, int count) {
    T* piece = reinterpret_cast<T*>(shared);
    shared += (count * sizeof(T) + 15) / 16 * 16;
    return piece;
}

// Rounds down, also below zero.
__device__ inline int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Division of whole numbers from 0 to 2^20 by one that stays the same: a GPU has no instruction for it, and this takes
// three. n + ½ over d is 1/(2d) or more from any whole number, far more than floats err there.
class Divisor {
    int d;
    float inverse;

public:
    __device__ explicit Divisor(int d) : d(d), inverse(1.0f / d) {}
    __device__ int quotient(int n) const { return static_cast<int>((n + 0.5f) * inverse); }
    __device__ int remainder(int n) const { return n - quotient(n) * d; }
};
