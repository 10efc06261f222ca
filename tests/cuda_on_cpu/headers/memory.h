// Memory: a block's dynamic shared memory, copies to it that are under way, and atomic operations.
//
// The asynchronous copies are those of kernels/primitives.cuh.  Between the call and its thread's wait the
// target is NaN, and the source is read at the wait only: whoever looks too early, or overwrites the source
// too early, sees it.
#pragma once

namespace [[gnu::visibility("hidden")]] ckn {

CKN_HARNESS void check_copy(Site site, const float* to, const float* from, unsigned bytes) {
    auto* target = reinterpret_cast<const unsigned char*>(to);
    bool outside = target < block.shared || target + bytes > block.shared + block.shared_bytes;
    bool crooked = reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes;
    if (!outside && !crooked) return;
    blame(site);
    if (outside)
        describe("the target, byte %td, is not in the block's %zu bytes of shared memory", target - block.shared,
                 block.shared_bytes);
    else
        describe("addresses must be multiples of %u; the target's byte is %td, the source's address %p", bytes,
                 target - block.shared, static_cast<const void*>(from));
    give_up();
}

// Not from malloc, which the thread sanitizer watches even here.
CKN_HARNESS void make_room_for_copies(Thread& thread) {
    unsigned room = thread.room_for_copies ? 2 * thread.room_for_copies : 128;
    void* memory = mmap(nullptr, room * sizeof(Copy), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    Copy* copies = static_cast<Copy*>(memory);
    for (unsigned i = 0; i < thread.n_copies; ++i) copies[i] = thread.copies[i];
    if (thread.copies) munmap(thread.copies, thread.room_for_copies * sizeof(Copy));
    thread.copies = copies;
    thread.room_for_copies = room;
}

CKN_HARNESS void remember_copy(float* to, const float* from, unsigned bytes) {
    Thread& self = *current;
    if (self.n_copies == self.room_for_copies) make_room_for_copies(self);
    self.copies[self.n_copies++] = {to, from, bytes, self.group};
}

// The two that touch the kernel's memory are for the sanitizers to see.
__attribute__((noinline)) inline void begin_copy(float* to, const float* from, unsigned bytes) {
    for (unsigned i = 0; i < bytes / 4; ++i) {
        if (from) [[maybe_unused]] volatile float touched = from[i];
        to[i] = bits_as<float>(~0u);
    }
}
__attribute__((noinline)) inline void make_copy(float* to, const float* from, unsigned bytes) {
    for (unsigned i = 0; i < bytes / 4; ++i) to[i] = from ? from[i] : 0.0f;
}

CKN_HARNESS void copy_async(Site site, float* to, const float* from, bool inside, unsigned bytes) {
    check_copy(site, to, from, bytes);
    begin_copy(to, inside ? from : nullptr, bytes);
    remember_copy(to, inside ? from : nullptr, bytes);
}

CKN_HARNESS void wait_for_copies(unsigned groups) {
    Thread& self = *current;
    unsigned kept = 0;
    for (unsigned i = 0; i < self.n_copies; ++i) {
        const Copy copy = self.copies[i];
        // Copies of a group not closed (group == self.group) are not waited for.
        if (copy.group < self.group && copy.group + groups < self.group) make_copy(copy.to, copy.from, copy.bytes);
        else self.copies[kept++] = copy;
    }
    self.n_copies = kept;
}

CKN_HARNESS void close_group() { ++current->group; }

CKN_HARNESS unsigned char* shared_memory() { return block.shared; }

}  // namespace ckn

static inline unsigned char* dynamic_shared() { return ckn::shared_memory(); }

static inline void copy_async_4(float* shared, const float* global, bool inside, CKN_HERE) {
    ckn::copy_async({"copy_async_4", file, line}, shared, global, inside, 4);
}
static inline void copy_async_16(float* shared, const float* global, bool inside, CKN_HERE) {
    ckn::copy_async({"copy_async_16", file, line}, shared, global, inside, 16);
}
static inline void copy_commit() { ckn::close_group(); }
template <int groups>
inline void copy_wait() {
    ckn::wait_for_copies(groups);
}

// What follows a fence in one thread is ordered after what precedes one in another.
static inline void __threadfence() {
    ckn::order_release(ckn::order_object(ckn::order_fence));
    ckn::order_acquire(ckn::order_object(ckn::order_fence));
}
static inline void __threadfence_block() { __threadfence(); }

template <class T>
inline T atomicCAS(T* address, T expected, T value) {
    __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T>
inline T atomicExch(T* address, T value) {
    T old;
    __atomic_exchange(address, &value, &old, __ATOMIC_RELAXED);
    return old;
}

namespace [[gnu::visibility("hidden")]] ckn {

// Replace a number by what `change` makes of it; the old one.
template <class T, class F>
inline T atomic_change(T* address, F change) {
    T old, value;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do value = change(old);
    while (!__atomic_compare_exchange(address, &old, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

}  // namespace ckn

// The second operand is of the same type, as in CUDA, and takes no part in finding out which.
template <class T>
inline T atomicAdd(T* address, std::common_type_t<T> value) {
    return ckn::atomic_change(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
inline T atomicMax(T* address, std::common_type_t<T> value) {
    return ckn::atomic_change(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
inline T atomicMin(T* address, std::common_type_t<T> value) {
    return ckn::atomic_change(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
inline T atomicOr(T* address, std::common_type_t<T> value) {
    return ckn::atomic_change(address, [=](T old) { return old | value; });
}
