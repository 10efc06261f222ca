// Shuffles and votes: the collective operations of a warp that carry no memory.
//
// As in CUDA, none of them but __syncwarp orders memory: what a lane wrote to shared memory before a shuffle
// is not for the others to read after it.
#pragma once

#define CKN_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace [[gnu::visibility("hidden")]] ckn {

struct Shuffle {
    uint64_t value, result;
    int source;  // lane of the warp
};

// What a lane gets from one that takes no part is undefined: all bits set, NaN in both types of number.
CKN_HARNESS void exchange(Thread* first, unsigned arrived) {
    for (unsigned rest = arrived; rest; rest &= rest - 1) {
        Shuffle& mine = *static_cast<Shuffle*>(first[__builtin_ctz(rest)].operand);
        bool there = arrived >> mine.source & 1;
        mine.result = there ? static_cast<Shuffle*>(first[mine.source].operand)->value : ~uint64_t{0};
    }
}

CKN_HARNESS unsigned own_lane() { return current->linear % lanes; }

template <class T>
CKN_HARNESS T shuffle(Site site, unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "numbers of 4 or 8 bytes are shuffled");
    Shuffle operand{0, 0, source};
    __builtin_memcpy(&operand.value, &value, sizeof value);
    meet(site, {mask, exchange, false, false}, &operand);
    __builtin_memcpy(&value, &operand.result, sizeof value);
    return value;
}

// The segment of `width` lanes in which a lane lies, as CUDA has it: from which lane on, and its last.
CKN_HARNESS int segment(int width) { return static_cast<int>(own_lane()) & ~(width - 1); }

struct Vote {
    bool given;
    unsigned result;
};

CKN_HARNESS void count_votes(Thread* first, unsigned arrived) {
    unsigned ballot = 0;
    for (unsigned rest = arrived; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        if (static_cast<Vote*>(first[lane].operand)->given) ballot |= 1u << lane;
    }
    for (unsigned rest = arrived; rest; rest &= rest - 1)
        static_cast<Vote*>(first[__builtin_ctz(rest)].operand)->result = ballot;
}

CKN_HARNESS unsigned vote(Site site, unsigned mask, bool given) {
    Vote operand{given, 0};
    meet(site, {mask, count_votes, false, false}, &operand);
    return operand.result;
}

}  // namespace ckn

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CKN_HERE) {
    return ckn::shuffle({"__shfl_sync", file, line}, mask, value, ckn::segment(width) + (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CKN_HERE) {
    int own = static_cast<int>(ckn::own_lane()), source = (own ^ bits) & 31;
    bool beyond = source >= ckn::segment(width) + width;  // of a later segment: one gets one's own value
    return ckn::shuffle({"__shfl_xor_sync", file, line}, mask, value, beyond ? own : source);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CKN_HERE) {
    int own = static_cast<int>(ckn::own_lane()), source = own + static_cast<int>(delta);
    bool beyond = source >= ckn::segment(width) + width;
    return ckn::shuffle({"__shfl_down_sync", file, line}, mask, value, beyond ? own : source);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CKN_HERE) {
    int own = static_cast<int>(ckn::own_lane()), source = own - static_cast<int>(delta);
    return ckn::shuffle({"__shfl_up_sync", file, line}, mask, value, source < ckn::segment(width) ? own : source);
}

static inline unsigned __ballot_sync(unsigned mask, int given, CKN_HERE) {
    return ckn::vote({"__ballot_sync", file, line}, mask, given);
}
static inline int __any_sync(unsigned mask, int given, CKN_HERE) {
    return ckn::vote({"__any_sync", file, line}, mask, given) != 0;
}
static inline int __all_sync(unsigned mask, int given, CKN_HERE) {
    return ckn::vote({"__all_sync", file, line}, mask, !given) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, CKN_HERE) {
    ckn::meet({"__syncwarp", file, line}, {mask, nullptr, false, true}, nullptr);
}
static inline unsigned __activemask() { return ckn::block.warps[ckn::current->linear / 32].live; }
