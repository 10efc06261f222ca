// The grid: blocks in the order chosen, and what a caller may ask of a compiled module.
//
// A module ends with a table of its kernels, `CKN_KERNELS(CKN_KERNEL("name", name), ...)`.  Each entry knows
// the types of the kernel's parameters, so that a caller's arguments can be checked before they are bytes.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace [[gnu::visibility("hidden")]] ckn {

enum class Order { forward, backward, shuffled };

// The environment's choice of an order, and a generator for the shuffled one (splitmix64).
struct Choice {
    Order order = Order::forward;
    uint64_t state = 0;

    static Choice of_environment() {
        Choice choice;
        const char* text = std::getenv("CKNCUDA_CPU_ORDER");
        if (!text || !*text || !std::strcmp(text, "forward")) return choice;
        if (!std::strcmp(text, "backward")) choice.order = Order::backward;
        else if (!std::strncmp(text, "shuffled", 8)) {
            choice.order = Order::shuffled;
            choice.state = text[8] == ':' ? std::strtoull(text + 9, nullptr, 10) : 0;
        } else std::fprintf(stderr, "cuda_on_cpu: CKNCUDA_CPU_ORDER=%s is not known; forward is taken\n", text);
        return choice;
    }
    CKN_NOT_WATCHED uint64_t random() {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // The numbers below n in the order chosen.
    template <class T>
    CKN_NOT_WATCHED void arrange(T* numbers, size_t n) {
        for (size_t i = 0; i < n; ++i) numbers[i] = static_cast<T>(order == Order::backward ? n - 1 - i : i);
        if (order != Order::shuffled) return;
        for (size_t i = n; i > 1; --i) {
            size_t other = random() % i;
            T number = numbers[i - 1];
            numbers[i - 1] = numbers[other];
            numbers[other] = number;
        }
    }
};

// ---- One block -------------------------------------------------------------------------------------------

constexpr size_t guard_bytes = 64;  // after the shared memory, where no sanitizer watches its end

CKN_HARNESS void set_up_threads(Choice& choice) {
    block.n_threads = block.live = block.shape.x * block.shape.y * block.shape.z;
    block.n_warps = (block.n_threads + lanes - 1) / lanes;
    block.at_barrier = block.barriers = block.ready_warps = 0;
    block.warp = -1;
    choice.arrange(block.warp_of_rank, block.n_warps);
    for (unsigned rank = 0; rank < block.n_warps; ++rank) block.rank_of_warp[block.warp_of_rank[rank]] = rank;
    for (unsigned number = 0; number < block.n_warps; ++number) {
        Warp& warp = block.warps[number];
        unsigned there = block.n_threads - number * lanes;
        warp.live = there >= lanes ? ~0u : (1u << there) - 1;
        warp.ready = 0;
        choice.arrange(warp.lane_of_rank, lanes);
        for (int rank = 0; rank < lanes; ++rank) warp.rank_of_lane[warp.lane_of_rank[rank]] = rank;
        for (Pending& pending : warp.pending) pending.arrived = pending.generation = 0;
        make_ready(number, warp.live);
    }
    for (unsigned i = 0; i < block.n_threads; ++i) {
        Thread& thread = block.threads[i];
        thread.index = {i % block.shape.x, i / block.shape.x % block.shape.y, i / block.shape.x / block.shape.y};
        thread.linear = i;
        thread.waits.what = nullptr;
        thread.ended = false;
        thread.n_copies = thread.group = 0;
        thread.way = 0;
        prepare(thread.context, thread_main, i);
#ifdef CKN_TSAN
        thread.context.identity = new_identity();
        [[maybe_unused]] NotWatched naming;
        char name[64];
        std::snprintf(name, sizeof name, "block (%u,%u,%u) thread (%u,%u,%u)", block.index.x, block.index.y,
                      block.index.z, thread.index.x, thread.index.y, thread.index.z);
        __tsan_set_fiber_name(thread.context.identity, name);
#endif
    }
}

CKN_HARNESS void run_threads() {
    current = next_ready();
    switch_context(block.outside, current->context, false);
    current = nullptr;
    if (!block.failed && block.live) {
        describe_waiting();
        block.failed = true;
    }
    order_acquire(order_object(order_end));
}

CKN_HARNESS void check_guard() {
#ifndef CKN_ASAN
    for (size_t i = 0; i < guard_bytes && !block.failed; ++i)
        if (block.shared[block.shared_bytes + i] != 0xff) {
            block.error[0] = 0;
            describe("block (%u, %u, %u) wrote beyond its %zu bytes of shared memory", block.index.x, block.index.y,
                     block.index.z, block.shared_bytes);
            block.failed = true;
        }
#endif
}

CKN_HARNESS void run_block(Choice& choice) {
#ifdef CKN_ASAN
    size_t room = block.shared_bytes;
#else
    size_t room = block.shared_bytes + guard_bytes;
#endif
    void* shared = nullptr;
    if (posix_memalign(&shared, 128, room ? room : 1)) std::abort();
    std::memset(shared, 0xff, room);
    block.shared = static_cast<unsigned char*>(shared);
    block.order = static_cast<char*>(std::malloc(8 * order_objects));
    set_up_threads(choice);
    run_threads();
    check_guard();
    std::free(block.order);
    std::free(shared);
}

// For the thread sanitizer, each block is begun by a thread of its own, or its threads would come after those
// of the block before.
CKN_HARNESS void run_block_apart(Choice& choice, [[maybe_unused]] void* end_of_launch) {
#ifdef CKN_TSAN
    void* outer = block.outside.identity;
    block.outside.identity = new_identity();
    __tsan_switch_to_fiber(block.outside.identity, __tsan_switch_to_fiber_no_sync);
    run_block(choice);
    order_release(end_of_launch);
    __tsan_switch_to_fiber(outer, __tsan_switch_to_fiber_no_sync);
    block.outside.identity = outer;
#else
    run_block(choice);
#endif
}

// ---- All blocks ------------------------------------------------------------------------------------------

struct Shape {
    unsigned grid[3], block[3];
    uint64_t shared_bytes;
};

// CuPy compiles with -ftz=true: numbers too small for a normal mantissa are zero.  (Here for doubles, too.)
struct FlushToZero {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    FlushToZero() { _mm_setcsr(before | 0x8040u); }
    ~FlushToZero() { _mm_setcsr(before); }
#endif
};

CKN_HARNESS void set_up_launch(const Shape& shape, void (*run)(const void*), const void* arguments) {
    block.grid = {shape.grid[0], shape.grid[1], shape.grid[2]};
    block.shape = {shape.block[0], shape.block[1], shape.block[2]};
    block.shared_bytes = shape.shared_bytes;
    block.run = run;
    block.arguments = arguments;
    block.failed = false;
    block.error[0] = 0;
    set_up_tensor_cores();
    describe_own_stack(block.outside);
}

CKN_HARNESS void run_blocks(const uint64_t* order, size_t n, Choice& choice) {
    char end_of_launch[8];
    for (size_t i = 0; i < n && !block.failed; ++i) {
        uint64_t row = order[i] / block.grid.x;
        block.index = {unsigned(order[i] % block.grid.x), unsigned(row % block.grid.y), unsigned(row / block.grid.y)};
        run_block_apart(choice, end_of_launch);
    }
    order_acquire(end_of_launch);
}

inline int run_grid(const Shape& shape, void (*run)(const void*), const void* arguments, char* error, size_t room) {
    Choice choice = Choice::of_environment();
    std::vector<uint64_t> order(uint64_t{shape.grid[0]} * shape.grid[1] * shape.grid[2]);
    choice.arrange(order.data(), order.size());
    set_up_launch(shape, run, arguments);
    {
        FlushToZero flush;
        [[maybe_unused]] CatchFaults faults;
        run_blocks(order.data(), order.size(), choice);
    }
    if (block.failed) std::snprintf(error, room, "%s", block.error);
    return block.failed;
}

// ---- Kernels and their parameters ------------------------------------------------------------------------

// What a pointer points to, in NumPy's letters: f4, i8, b1, ...; v is void, s is a structure.
template <class T, class = void>
struct Element {
    static constexpr char letter = std::is_void_v<T> ? 'v' : std::is_class_v<T> ? 's' : '?';
    static constexpr size_t size = 0;
};
template <class T>
struct Element<T, std::enable_if_t<std::is_arithmetic_v<T>>> {
    static constexpr char letter = std::is_same_v<T, bool> ? 'b' : std::is_floating_point_v<T> ? 'f'
                                   : std::is_signed_v<T> ? 'i' : 'u';
    static constexpr size_t size = sizeof(T);
};
// CUDA's vectors: float4 is floats to a caller.
template <class T>
struct Element<T, std::void_t<decltype(T::x)>> : Element<decltype(T::x)> {};

// One word for each parameter: "p" or "pc" (to constants) with the element, or the scalar's own letter, or
// "struct" with its bytes.
template <class P>
void describe_parameter(std::vector<char>& text) {
    using Pointee = std::remove_pointer_t<P>;
    using T = std::remove_cv_t<Pointee>;
    char word[64];
    if constexpr (std::is_pointer_v<P>)
        std::snprintf(word, sizeof word, "%s:%c%zu ", std::is_const_v<Pointee> ? "pc" : "p", Element<T>::letter,
                      Element<T>::size);
    else if constexpr (std::is_arithmetic_v<P>)
        std::snprintf(word, sizeof word, "scalar:%c%zu ", Element<T>::letter, sizeof(P));
    else
        std::snprintf(word, sizeof word, "struct:%zu ", sizeof(P));
    text.insert(text.end(), word, word + std::strlen(word));
}

template <class... P>
struct Parameters {
    static std::vector<char> signature() {
        std::vector<char> text;
        (describe_parameter<std::remove_cv_t<P>>(text), ...);
        text.push_back(0);
        return text;
    }
    template <size_t... I>
    static std::tuple<P...> read(void* const* arguments, std::index_sequence<I...>) {
        return {*static_cast<std::remove_reference_t<P>*>(arguments[I])...};
    }
};

struct Kernel {
    const char* name;
    std::vector<char> signature;
    int (*launch)(const Shape&, void* const* arguments, char* error, size_t room);
};

template <auto kernel, class... P, size_t... I>
inline void run_kernel(const std::tuple<P...>& values, std::index_sequence<I...>) {
    kernel(std::get<I>(values)...);
}

template <auto kernel, class... P>
Kernel make_kernel(const char* name, void (*)(P...)) {
    static_assert((std::is_trivially_copyable_v<P> && ...), "parameters are passed as bytes");
    return {name, Parameters<P...>::signature(),
            [](const Shape& shape, [[maybe_unused]] void* const* arguments, char* error, size_t room) {
                auto values = Parameters<P...>::read(arguments, std::index_sequence_for<P...>());
                auto run = [](const void* held) {
                    run_kernel<kernel>(*static_cast<const std::tuple<P...>*>(held), std::index_sequence_for<P...>());
                };
                return run_grid(shape, run, &values, error, room);
            }};
}

std::vector<Kernel>& kernels();  // the table of this module

}  // namespace ckn

#define CKN_KERNEL(name, ...) ckn::make_kernel<(&__VA_ARGS__)>(name, (&__VA_ARGS__))
#define CKN_KERNELS(...)                                           \
    std::vector<ckn::Kernel>& ckn::kernels() {                     \
        static std::vector<ckn::Kernel> all = {__VA_ARGS__};       \
        return all;                                                \
    }

#define CKN_ASKED_FROM_OUTSIDE extern "C" __attribute__((visibility("default")))

CKN_ASKED_FROM_OUTSIDE int ckn_launch(unsigned kernel, const ckn::Shape* shape, void* const* arguments, char* error,
                                      size_t room) {
    return ckn::kernels()[kernel].launch(*shape, arguments, error, room);
}
// Between launches: the next one makes what it needs.
CKN_ASKED_FROM_OUTSIDE void ckn_forget_stacks() {
    for (ckn::Thread& thread : ckn::block.threads) ckn::forget_stack(thread.context);
}
CKN_ASKED_FROM_OUTSIDE const char* ckn_signature(unsigned kernel) { return ckn::kernels()[kernel].signature.data(); }

#ifdef CKN_COVERAGE
extern "C" void __gcov_dump();
extern "C" void __gcov_reset();
CKN_ASKED_FROM_OUTSIDE void ckn_write_coverage() {
    __gcov_dump();
    __gcov_reset();
}
#endif
