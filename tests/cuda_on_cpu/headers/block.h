// The threads of a block: who runs next, who waits for whom, and what happens when nobody can go on.
//
// A warp runs until all its threads wait, then the next one does: one that runs far ahead shows a missing
// barrier best.  Within this, warps and lanes are taken in the order chosen, by their "rank" in it.
#pragma once

namespace [[gnu::visibility("hidden")]] ckn {

constexpr int lanes = 32, most_threads = 1024, most_warps = most_threads / lanes;

// Where in the kernel's source something was asked for.
struct Site {
    const char* what;
    const char* file;
    int line;
};

// A copy that has begun; it is made when its thread waits for its group.
struct Copy {
    float* to;
    const float* from;  // null: zeros are written
    unsigned bytes, group;
};

struct Thread {
    Context context;
    uint3 index{};
    unsigned linear = 0;
    Site waits{};             // what == nullptr: it runs, may run, or has ended
    bool ended = false;
    void* operand = nullptr;  // what it brought to its warp's collective operation
    uint64_t way = 0;         // a digest of the branches taken since all lanes of the warp were last together
    Copy* copies = nullptr;
    unsigned n_copies = 0, room_for_copies = 0, group = 0;
};

using Complete = void (*)(Thread* first, unsigned arrived);

// A collective operation that some lanes of a warp have reached and others not.
struct Pending {
    unsigned mask, arrived, generation;
    Site site;
    Complete complete;
};

struct Warp {
    unsigned live;   // lanes that have not ended
    unsigned ready;  // ranks of those that may run
    unsigned char lane_of_rank[lanes], rank_of_lane[lanes];
    Pending pending[lanes];  // by the lowest lane of the mask: disjoint groups of lanes do not meet
};

struct Block {
    Thread threads[most_threads];
    Warp warps[most_warps];
    unsigned char warp_of_rank[most_warps], rank_of_warp[most_warps];
    unsigned n_threads, n_warps, live, ready_warps;
    int warp;  // the one that runs, or -1
    unsigned at_barrier, barriers;
    Site barrier;
    Context outside;
    unsigned char* shared;
    size_t shared_bytes;
    char* order;  // addresses that name barriers to the thread sanitizer, new ones for each block
    void (*run)(const void*);
    const void* arguments;
    uint3 index;
    dim3 grid, shape;
    bool failed;
    char error[2048];
};

inline Block block;
inline Thread* current = nullptr;

// With CKN_WAYS, the compiler calls __sanitizer_cov_trace_pc, below, in each basic block of a kernel.
CKN_HARNESS void together() { current->way = 0; }

constexpr size_t order_objects = 4 + most_threads * 2;
enum : unsigned { order_end = 0, order_fence = 1, order_barrier = 2, order_warps = 4 };

CKN_HARNESS void* order_object([[maybe_unused]] unsigned which) { return block.order + 8 * which; }

// ---- What went wrong -------------------------------------------------------------------------------------

CKN_HARNESS void describe(const char* format, ...) {
    [[maybe_unused]] NotWatched describing;
    size_t used = std::strlen(block.error);
    va_list values;
    va_start(values, format);
    std::vsnprintf(block.error + used, sizeof block.error - used, format, values);
    va_end(values);
}

// Give the launch up: what is said has been described.
[[noreturn]] CKN_HARNESS void give_up() {
    block.failed = true;
    if (current) {
        Thread& self = *current;
        current = nullptr;
        switch_context(self.context, block.outside, false);
    }
    std::abort();
}

// Begin to describe an error of the running thread.
CKN_HARNESS void blame(Site site) {
    block.error[0] = 0;
    const uint3& t = current->index;
    describe("%s (%s:%d), block (%u, %u, %u) thread (%u, %u, %u): ", site.what, site.file, site.line, block.index.x,
             block.index.y, block.index.z, t.x, t.y, t.z);
}

CKN_HARNESS bool same_site(const Site& a, const Site& b) {
    return a.line == b.line && a.what == b.what && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// "threads 0-15, 20 wait at ...": who waits where, in a block that cannot go on.
CKN_HARNESS void describe_waiting() {
    block.error[0] = 0;
    describe("deadlock in block (%u, %u, %u), no thread can go on:", block.index.x, block.index.y, block.index.z);
    bool told[most_threads] = {};
    for (unsigned i = 0; i < block.n_threads; ++i) {
        if (told[i]) continue;
        const Thread& first = block.threads[i];
        describe(i ? "; threads" : " threads");
        for (unsigned j = i, ranges = 0; j < block.n_threads; ++j) {
            unsigned end = j;
            while (end < block.n_threads && block.threads[end].ended == first.ended &&
                   (first.ended || same_site(block.threads[end].waits, first.waits)))
                told[end++] = true;
            if (end == j) continue;
            if (ranges < 6) describe(end - j > 1 ? " %u-%u" : " %u", j, end - 1);
            if (ranges++ == 6) describe(" ...");
            j = end;
        }
        if (first.ended) describe(" have ended");
        else describe(" wait at %s (%s:%d)", first.waits.what, first.waits.file, first.waits.line);
    }
}

// ---- Who runs next ---------------------------------------------------------------------------------------

CKN_HARNESS void make_ready(unsigned warp, unsigned which) {
    Warp& w = block.warps[warp];
    for (unsigned rest = which; rest; rest &= rest - 1) w.ready |= 1u << w.rank_of_lane[__builtin_ctz(rest)];
    block.ready_warps |= 1u << block.rank_of_warp[warp];
}

CKN_HARNESS Thread* next_ready() {
    if (block.warp < 0 || !block.warps[block.warp].ready) {
        if (!block.ready_warps) return nullptr;
        block.warp = block.warp_of_rank[__builtin_ctz(block.ready_warps)];
    }
    Warp& w = block.warps[block.warp];
    int rank = __builtin_ctz(w.ready);
    w.ready &= w.ready - 1;
    if (!w.ready) block.ready_warps &= ~(1u << block.rank_of_warp[block.warp]);
    return &block.threads[block.warp * lanes + w.lane_of_rank[rank]];
}

// Let others run until somebody makes this thread ready; for ever, if it has ended.
CKN_HARNESS void wait() {
    Thread* self = current;
    Thread* next = next_ready();
    if (next == self) return;
    current = next;
    switch_context(self->context, next ? next->context : block.outside, self->ended);
    current = self;
}

// ---- Barriers --------------------------------------------------------------------------------------------

CKN_HARNESS void open_barrier() {
    block.at_barrier = 0;
    ++block.barriers;
    block.warp = -1;
    for (unsigned warp = 0; warp < block.n_warps; ++warp)
        if (block.warps[warp].live) make_ready(warp, block.warps[warp].live);
}

CKN_HARNESS void at_barrier(Site site) {
    if (block.at_barrier && !same_site(site, block.barrier)) {
        blame(site);
        describe("threads of one block are at two barriers; others wait at line %d of %s", block.barrier.line,
                 block.barrier.file);
        give_up();
    }
    block.barrier = site;
    unsigned parity = block.barriers & 1;  // a thread may reach the next barrier before another has left this one
    order_release(order_object(order_barrier + parity));
    current->waits = site;
    if (++block.at_barrier == block.live) open_barrier();
    wait();
    current->waits.what = nullptr;
    together();
    order_acquire(order_object(order_barrier + parity));
}

// ---- Collective operations of a warp ---------------------------------------------------------------------

CKN_HARNESS void complete_if_all_arrived(unsigned warp, Pending& pending) {
    if (!pending.arrived || pending.arrived != (pending.mask & block.warps[warp].live)) return;
    if (pending.complete) pending.complete(&block.threads[warp * lanes], pending.arrived);
    make_ready(warp, pending.arrived);
    pending.arrived = 0;
    ++pending.generation;
}

struct Collective {
    unsigned mask;
    Complete complete;     // called once all lanes have brought their operand
    bool whole_warp;       // all 32 lanes must take part
    bool orders_memory;    // true of __syncwarp alone: shuffles and votes order nothing
};

CKN_HARNESS void check_lanes(Site site, const Collective& what, unsigned lane, const Warp& warp, const Pending& pending) {
    bool absent = !(what.mask >> lane & 1), ended = what.whole_warp && warp.live != ~0u;
    bool differs = pending.arrived && (pending.mask != what.mask || !same_site(pending.site, site));
    if (!absent && !ended && !differs) return;
    blame(site);
    if (absent) describe("the mask 0x%08x has no bit for the lane %u, which calls", what.mask, lane);
    else if (ended) describe("all 32 lanes of the warp must take part; those alive are 0x%08x", warp.live);
    else
        describe("divergence: lanes 0x%08x of this warp wait at %s (%s:%d) with the mask 0x%08x; this one has 0x%08x",
                 pending.arrived, pending.site.what, pending.site.file, pending.site.line, pending.mask, what.mask);
    give_up();
}

// What needs the whole warp at once finds it together only if all lanes have come the same way since they last were: a
// GPU may run those that took a branch apart from the others for as long as it likes.
CKN_HARNESS void check_way(Site site, const Pending& pending) {
    if (!pending.arrived) return;
    unsigned other = __builtin_ctz(pending.arrived), first = (current->linear / lanes) * lanes;
    if (block.threads[first + other].way == current->way) return;
    blame(site);
    describe("lane %u of the warp has come here by other branches than lane %u, and no __syncwarp has brought them together",
             current->linear % lanes, other);
    give_up();
}

// Meet the other lanes of the mask; each brings an operand, and what is completed is written to these.
CKN_HARNESS void meet(Site site, const Collective& what, void* operand) {
    Thread& self = *current;
    unsigned number = self.linear / lanes, lane = self.linear % lanes;
    Warp& warp = block.warps[number];
    unsigned slot = what.mask ? __builtin_ctz(what.mask) : 0;
    Pending& pending = warp.pending[slot];
    check_lanes(site, what, lane, warp, pending);
    if (what.whole_warp) check_way(site, pending);
    unsigned object = order_warps + (number * lanes + slot) * 2 + (pending.generation & 1);
    if (what.orders_memory) order_release(order_object(object));
    pending.mask = what.mask;
    pending.site = site;
    pending.complete = what.complete;
    pending.arrived |= 1u << lane;
    self.operand = operand;
    self.waits = site;
    complete_if_all_arrived(number, pending);
    wait();
    self.waits.what = nullptr;
    if (what.mask == ~0u) together();
    if (what.orders_memory) order_acquire(order_object(object));
}

// ---- The life of a thread --------------------------------------------------------------------------------

// Those who wait for all threads that live no longer wait for this one.
CKN_HARNESS void end_thread() {
    Thread& self = *current;
    unsigned number = self.linear / lanes;
    Warp& warp = block.warps[number];
    self.ended = true;
    order_release(order_object(order_end));
    warp.live &= ~(1u << self.linear % lanes);
    --block.live;
    for (int slot = 0; slot < lanes; ++slot) complete_if_all_arrived(number, warp.pending[slot]);
    if (block.live && block.at_barrier == block.live) open_barrier();
    wait();
    std::abort();  // nobody makes an ended thread ready
}

CKN_HARNESS void thread_main() {
    arrive(current->context);
    block.run(block.arguments);
    end_thread();
}

}  // namespace ckn

#ifdef CKN_WAYS
extern "C" __attribute__((visibility("hidden"), no_sanitize_coverage, noinline, used)) inline void
__sanitizer_cov_trace_pc() {
    auto place = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    if (ckn::current) ckn::current->way = (ckn::current->way ^ place) * 0x9e3779b97f4a7c15u;
}
#endif

#define threadIdx (ckn::current->index)
#define blockIdx (ckn::block.index)
#define blockDim (ckn::block.shape)
#define gridDim (ckn::block.grid)

static inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    ckn::at_barrier({"__syncthreads", file, line});
}

[[noreturn]] static inline void __trap(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    ckn::blame({"__trap", file, line});
    ckn::describe("the kernel gives up");
    ckn::give_up();
}
