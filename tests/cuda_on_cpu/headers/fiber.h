// A fiber: a stack of its own, and the switch from one to another.
//
// On x86-64 the switch saves the six registers that a function must preserve and exchanges the stack pointer,
// a few nanoseconds; elsewhere (or with CKN_UCONTEXT) the system's ucontext does it in a few hundred.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) && !defined(CKN_UCONTEXT)
#define CKN_UCONTEXT
#endif
#ifdef CKN_UCONTEXT
#include <ucontext.h>
#else
// void ckn_switch(void** save, void* to): go on with the stack `to`, having put where this one is in *save.
asm(R"(
    .text
    .p2align 4
    .type ckn_switch, @function
ckn_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size ckn_switch, .-ckn_switch
)");
extern "C" __attribute__((visibility("hidden"))) void ckn_switch(void** save, void* to);
#endif

namespace [[gnu::visibility("hidden")]] ckn {

#ifdef CKN_TSAN
constexpr size_t stack_bytes = 64 << 10;  // all of it is made new for each thread
#else
constexpr size_t stack_bytes = 256 << 10;  // reserved; only what is touched takes memory
#endif

// Where something that runs can be left and taken up again.
struct Context {
#ifdef CKN_UCONTEXT
    ucontext_t state;
#else
    void* stack_pointer = nullptr;
#endif
    char* stack = nullptr;  // lowest address
    size_t stack_size = 0;
    void* fake_stack = nullptr;  // the address sanitizer's
    void* identity = nullptr;    // the thread sanitizer's
};

// A stack below which the first page must not be touched: running out of it is a fault, not a corruption.
CKN_HARNESS char* new_stack() {
    void* memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        std::fprintf(stderr, "cuda_on_cpu: no memory for the stack of a thread\n");
        std::abort();
    }
    mprotect(memory, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE);
    return static_cast<char*>(memory);
}

// Give a stack back: each takes two of the mappings that a process may have, 65,530 by default on Linux.
CKN_HARNESS void forget_stack(Context& context) {
    if (context.stack) munmap(context.stack, stack_bytes);
    context.stack = nullptr;
}

// Make the context begin in `entry`, which never returns.
CKN_HARNESS void prepare(Context& context, void (*entry)(), [[maybe_unused]] unsigned index) {
    if (!context.stack) {
        context.stack = new_stack();
        context.stack_size = stack_bytes;
    }
#ifdef CKN_TSAN
    // A thread of the last block had this stack; as new memory, it is nobody's.
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    mmap(context.stack + page, stack_bytes - page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
#ifdef CKN_UCONTEXT
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = context.stack;
    context.state.uc_stack.ss_size = context.stack_size;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
#else
    // Stacks that begin at different cache lines of a page do not displace one another from the cache.
    char* top = context.stack + context.stack_size - (index * 7 % 61) * 64;
    void** slot = reinterpret_cast<void**>(top) - 1;
    *slot = nullptr;  // the return address of `entry`: here a debugger's trace ends
    *--slot = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--slot = nullptr;
    context.stack_pointer = slot;
#endif
    context.fake_stack = nullptr;
}

// What a fiber does first: tell the address sanitizer that it has arrived on its stack.
CKN_HARNESS void arrive([[maybe_unused]] Context& context) {
#ifdef CKN_ASAN
    __sanitizer_finish_switch_fiber(context.fake_stack, nullptr, nullptr);
#endif
}

// Leave `from`, for good if it has ended, and go on with `to`.
CKN_HARNESS void switch_context(Context& from, Context& to, [[maybe_unused]] bool ended) {
#ifdef CKN_ASAN
    __sanitizer_start_switch_fiber(ended ? nullptr : &from.fake_stack, to.stack, to.stack_size);
#endif
#ifdef CKN_TSAN
    __tsan_switch_to_fiber(to.identity, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef CKN_UCONTEXT
    swapcontext(&from.state, &to.state);
#else
    ckn_switch(&from.stack_pointer, to.stack_pointer);
#endif
    arrive(from);
}

// Describe the stack on which we are, which is the system's own.
CKN_HARNESS void describe_own_stack([[maybe_unused]] Context& context) {
#ifdef CKN_ASAN
    pthread_attr_t attributes;
    void* lowest = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &lowest, &context.stack_size);
    pthread_attr_destroy(&attributes);
    context.stack = static_cast<char*>(lowest);
#endif
#ifdef CKN_TSAN
    context.identity = __tsan_get_current_fiber();
#endif
}

}  // namespace ckn
