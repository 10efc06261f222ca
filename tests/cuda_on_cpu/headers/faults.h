// A kernel that touches memory it must not, as an error of the launch and not the end of the process.
//
// While a launch runs, the processor's fault is caught and the launch given up: wild pointers, a float4 at an
// address that is no multiple of 16, a stack that is too small.  The sanitizers say more; they catch it themselves.
#pragma once

#include <csignal>

namespace [[gnu::visibility("hidden")]] ckn {

inline void on_fault(int signal, siginfo_t* about, void*) {
    if (!current) {  // the harness itself, or another thread of the process
        std::signal(signal, SIG_DFL);
        return;
    }
    const uint3& t = current->index;
    block.error[0] = 0;
    describe("fault (signal %d) at address %p in block (%u, %u, %u) thread (%u, %u, %u): memory that is not there, or a "
             "vector such as float4 at an address that its size does not divide",
             signal, about->si_addr, block.index.x, block.index.y, block.index.z, t.x, t.y, t.z);
    give_up();
}

// While one of these lives, faults are the launch's.
struct CatchFaults {
#if !defined(CKN_ASAN) && !defined(CKN_TSAN)
    static constexpr size_t stack_size = 64 << 10;
    struct sigaction before_segv, before_bus;
    stack_t before_stack;
    CatchFaults() {
        static char stack[stack_size];
        stack_t own{};
        own.ss_sp = stack;
        own.ss_size = stack_size;
        sigaltstack(&own, &before_stack);
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler never returns
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
    }
    ~CatchFaults() {
        sigaction(SIGSEGV, &before_segv, nullptr);
        sigaction(SIGBUS, &before_bus, nullptr);
        sigaltstack(&before_stack, nullptr);
    }
#endif
};

}  // namespace ckn
